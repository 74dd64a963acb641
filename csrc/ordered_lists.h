// Lists of scores in the order of a key: the share of each in the exponentials of those from it on.
//
// 1. Several short lists are taken together, so that passes over arrays have long loops; a long one is taken alone.
// 2. Exponentials are those of the distance to the largest score of the list. In a list whose scores are so far apart
//    that they leave double, they are those of the distance to the largest score from the element on
//    (ordered_careful.h).
// 3. From the end of the list on, what comes after an element is added up; then shares, the formula and its slopes are
//    computed in arrays; then, from the beginning on, what the shares before an element take from it. Own exponentials
//    are left out of sums, not subtracted from them.
// 4. Of elements that are tied, the sums are those of all of them. With Efron's method the event at place l of d counts
//    1 - l/d of each tied event.
#pragma once

#include "ordered_careful.h"
#include "ordered_scans.h"

namespace losskit {
namespace {

constexpr double kFarthest = 600.0;  // exponentials and their inverses stay ordinary numbers
constexpr uint32_t kFlag = 0x80000000u;

// n elements from `begin` on as contiguous T, in place if they are.
template <class T>
const T* read_all(const Walk& walk, const Source& source, int64_t begin, int64_t n, Buffer<T>& buffer) {
  if (n == 0) return buffer.get(1);
  if (n <= kBlock || dense(walk, source)) return fetch(walk, source, begin, n, buffer.get(n));
  T* const all = buffer.get(n);
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    const T* const part = fetch(walk, source, begin + at, m, all + at);
    if (part != all + at) std::copy(part, part + m, all + at);
  }
  return all;
}

// A list of a batch: where its elements begin in the arrays, and how many there are.
struct List {
  int64_t unit, at, n;
  double many;               // events, or whether there are two elements
  bool lost, careful, ties;  // NaN; scores far apart; tied elements
  Sum loss;
};

// What a thread needs for lists.
struct ListScratch {
  Sorter<uint32_t> narrow;
  Sorter<uint64_t> wide;
  Buffer<double> x, others, kept, slopes, event, tied, tops, distances, before, more[3];
  Buffer<double> scores64, keys64;
  Buffer<int64_t> integers;
  Buffer<float> scores32, keys32, mask, events, out;
  Buffer<uint32_t> places;
  std::vector<List> lists;
};

// --------------------------------------------------------------------------------------------------------
// Passes over the elements of a list as they come

// Records of elements: keys in their order, or the other way round, and places.
LOSSKIT_CLONES inline void write_records(const float* x, int64_t n, uint32_t flip, Record<uint32_t>* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = {ordered_key(x[i]) ^ flip, static_cast<uint32_t>(i)};
}
LOSSKIT_CLONES inline void write_records(const double* x, int64_t n, uint64_t flip, Record<uint64_t>* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = {ordered_key(x[i]) ^ flip, static_cast<uint32_t>(i)};
}
LOSSKIT_CLONES inline void write_records(const int64_t* x, int64_t n, uint64_t flip, Record<uint64_t>* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = {ordered_key(x[i]) ^ flip, static_cast<uint32_t>(i)};
}
LOSSKIT_CLONES inline void write_records(const int64_t* x, int64_t least, int64_t n, uint32_t flip,
                                         Record<uint32_t>* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = {static_cast<uint32_t>(x[i] - least) ^ flip, static_cast<uint32_t>(i)};
}

struct Range {
  int64_t low, high;
  bool narrow() const { return static_cast<uint64_t>(high) - static_cast<uint64_t>(low) < uint64_t(1) << 32; }
};
LOSSKIT_CLONES inline Range range_of(const int64_t* x, int64_t n) {
  int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
  for (int64_t i = 0; i < n; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
  return {low, high};
}

// Whether one of the elements that count is NaN.
template <class T> LOSSKIT_INLINE bool any_nan_of(const T* x, const float* mask, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n && !mask; ++i) found |= x[i] != x[i];
  for (int64_t i = 0; i < n && mask; ++i) found |= (x[i] != x[i]) & (mask[i] != 0.0f);
  return found != 0;
}
LOSSKIT_CLONES inline bool any_nan(const float* x, const float* mask, int64_t n) { return any_nan_of(x, mask, n); }
LOSSKIT_CLONES inline bool any_nan(const double* x, const float* mask, int64_t n) { return any_nan_of(x, mask, n); }

// Whether one of the labels that count is neither 0 nor 1.
LOSSKIT_CLONES inline bool any_odd(const float* label, const float* mask, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n && !mask; ++i) found |= (label[i] != 0.0f) & (label[i] != 1.0f);
  for (int64_t i = 0; i < n && mask; ++i) found |= (label[i] != 0.0f) & (label[i] != 1.0f) & (mask[i] != 0.0f);
  return found != 0;
}

template <class Key> LOSSKIT_CLONES void flag_events(const float* event, int64_t n, Record<Key>* records) {
  for (int64_t i = 0; i < n; ++i) records[i].payload |= event[i] != 0.0f ? kFlag : 0u;
}

// The records that are not masked, from the beginning on; how many there are.
template <class Key> int64_t close_up(const float* mask, int64_t n, Record<Key>* records) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    records[kept] = records[i];
    kept += mask[i] != 0.0f;
  }
  return kept;
}

template <class Key> LOSSKIT_CLONES int64_t count_events(const Record<Key>* records, int64_t n) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) found += records[i].payload >> 31;
  return found;
}

// --------------------------------------------------------------------------------------------------------
// Passes over elements in order

template <class Key> LOSSKIT_CLONES void read_places(const Record<Key>* records, int64_t n, uint32_t* places) {
  for (int64_t k = 0; k < n; ++k) places[k] = records[k].payload & ~kFlag;
}
template <class Key> LOSSKIT_CLONES void read_events(const Record<Key>* records, int64_t n, double* event) {
  for (int64_t k = 0; k < n; ++k) event[k] = static_cast<double>(static_cast<int32_t>(records[k].payload >> 31));
}
template <class Key> LOSSKIT_CLONES bool read_ties(const Record<Key>* records, int64_t n, double* tied) {
  int32_t any = 0;
  tied[0] = 0.0;
  for (int64_t k = 1; k < n; ++k) {
    const int32_t same = records[k].key == records[k - 1].key;
    any |= same;
    tied[k] = static_cast<double>(same);
  }
  return any != 0;
}

LOSSKIT_CLONES inline void shares(const double* e, const double* others, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = -log1p(others[i] / e[i]);
}
LOSSKIT_CLONES inline void shares(const double* e, const double* others, const double* kept, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = -log1p(others[i] / (kept[i] * e[i])) - log(kept[i]);
}

// What is not an event has no loss, and takes nothing.
LOSSKIT_CLONES inline void only_events(const double* event, int64_t n, double* values, double* slopes) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    values[i] = where(event[i] != 0.0, values[i], 0.0);
    slopes[i] = where(event[i] != 0.0, slopes[i], 0.0);
  }
}

// In place of slopes: what each share takes from the elements after it, by their exponentials. In place of what comes
// after: the slope by the element itself.
LOSSKIT_CLONES inline void takings(const double* e, int64_t n, double* slopes, double* others) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double taken = slopes[i] / (others[i] + e[i]);
    others[i] *= taken;
    slopes[i] = taken;
  }
}
LOSSKIT_CLONES inline void takings(const double* e, const double* kept, int64_t n, double* slopes, double* others) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double taken = slopes[i] / (others[i] + kept[i] * e[i]);
    others[i] *= taken;
    slopes[i] = taken;
  }
}

// The slopes by the elements from their own and what is taken from them, in place.
LOSSKIT_CLONES inline void slopes_of(const double* e, const double* taken, double factor, int64_t n, double* own) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) own[i] = (own[i] - e[i] * taken[i]) * factor;
}

// The lists from `first` on that are taken together. T: of scores as they are read.
template <class T> struct Lists {
  Job& job;
  ListScratch& scratch;
  int64_t first, count;
  const bool events = job.event >= 0, descending = wire::ordered::descending(job.options.family);
  const bool tied = wire::ordered::tied(job.options.family), efron = wire::ordered::efron(job.options.family);

  // Elements in order, one list after another. tied_with: 1 where an element is tied with the one before it, else 0.
  double *x = nullptr, *others = nullptr, *kept = nullptr, *slopes = nullptr, *event = nullptr, *tied_with = nullptr;
  double *tops = nullptr, *apart = nullptr;  // of lists whose scores are far apart
  uint32_t* places = nullptr;
  bool any_kept = false;  // whether `kept` is written: else each element keeps all of itself

  void run(Sum& sum) {
    const int64_t width = job.width, most = count * width;
    x = scratch.x.get(most), others = scratch.others.get(most), slopes = scratch.slopes.get(most);
    kept = scratch.kept.get(most), places = scratch.places.get(most);
    event = events || efron ? scratch.event.get(most) : nullptr;
    tied_with = tied ? scratch.tied.get(most) : nullptr;
    auto& lists = scratch.lists;
    lists.clear();
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t unit = first + i;
      List list{unit, at, 0, 0.0, false, false, false, {}};
      if (counts(job, unit)) read(list);
      if (list.many == 0.0) {
        deliver(job, unit, 0.0, sum);
        fill_gradient(job, 0.0, width, unit * width);
        continue;
      }
      lists.push_back(list);
      at += list.n;
    }
    exponentials(x, at);
    if constexpr (sizeof(T) == 8) corrected(x, others, at);
    for (List& list : lists) add_up(list);
    for (const List& list : lists)
      if (any_kept && !weighted(list)) std::fill(kept + list.at, kept + list.at + list.n, 1.0);
    compute(at);
    for (const List& list : lists) finish(list, sum);
  }

  bool weighted(const List& list) const { return list.careful || (efron && list.ties); }
  const double* of(const double* array, const List& list) const { return array ? array + list.at : nullptr; }
  FarApart far_apart(const List& list) const {
    return {x + list.at, of(event, list), of(tied_with, list), efron, list.n};
  }

  // The elements of a list in order, as distances to the largest score.
  void read(List& list) {
    const int64_t width = job.width, begin = list.unit * width;
    const Source& key = job.own[1];
    if (list.unit + 1 < job.units) announce_list(begin + width);
    const float* mask =
        job.masks < 0 ? nullptr : read_all(job.elements, job.own[job.masks], begin, width, scratch.mask);
    const float* labels = events ? read_all(job.elements, job.own[2], begin, width, scratch.events) : nullptr;
    if (labels && any_odd(labels, mask, width)) list.lost = !allowed(labels, mask, begin);
    const auto flip = [this]<class Key>(Key) { return descending ? ~Key(0) : Key(0); };
    if (!floating(key.dtype)) {
      const int64_t* const keys = read_all(job.elements, key, begin, width, scratch.integers);
      const Range range = range_of(keys, width);
      if (range.narrow()) {
        scratch.narrow.reserve(width);
        write_records(keys, range.low, width, flip(uint32_t()), scratch.narrow.records);
        return put_in_order(list, scratch.narrow, labels, mask);
      }
      scratch.wide.reserve(width);
      write_records(keys, width, flip(uint64_t()), scratch.wide.records);
      return put_in_order(list, scratch.wide, labels, mask);
    }
    const auto take = [&](const auto* keys, auto& sorter, auto flip) {
      list.lost |= any_nan(keys, mask, width);
      sorter.reserve(width);
      write_records(keys, width, flip, sorter.records);
      put_in_order(list, sorter, labels, mask);
    };
    if (key.dtype == DType::kDouble)
      take(read_all(job.elements, key, begin, width, scratch.keys64), scratch.wide, flip(uint64_t()));
    else
      take(read_all(job.elements, key, begin, width, scratch.keys32), scratch.narrow, flip(uint32_t()));
  }

  // Has the memory of the next list fetched, which the hardware's prefetchers find too late: between two lists there is
  // time, and scores are read and slopes written in the order of the keys.
  void announce_list(int64_t begin) const {
    constexpr int64_t kLine = 64, kMost = int64_t(64) << 10;  // bytes; more would not stay in the cache
    const auto announce = [&](const char* data, DType dtype, auto written) {
      const int64_t bytes = std::min(job.width * size_of(dtype), kMost);
      const char* const from = data + begin * size_of(dtype);
      for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i, written);
    };
    for (const Source& source : job.own)
      if (source.present() && dense(job.elements, source)) announce(source.data, source.dtype, std::false_type());
    if (job.options.gradients) announce(job.gradients[0], job.gradient_dtypes[0], std::true_type());
  }

  // Whether labels that are neither 0 nor 1 are let through; NaN is not.
  bool allowed(const float* labels, const float* mask, int64_t begin) {
    bool fine = true;
    for (int64_t i = 0; i < job.width; ++i) {
      const float label = labels[i];
      if (label == 0.0f || label == 1.0f || (mask && mask[i] == 0.0f)) continue;
      fine &= job.options.checks == kOff && label == label;
      if (job.options.checks == kRaise && label == label)
        job.report({0, begin + i, static_cast<int64_t>(Violation::kLabel), begin + i, static_cast<double>(label)});
    }
    return fine;
  }

  // Sorts the records of a list, and reads its scores in their order.
  template <class Key> void put_in_order(List& list, Sorter<Key>& sorter, const float* labels, const float* mask) {
    const int64_t width = job.width;
    if (labels) flag_events(labels, width, sorter.records);
    const int64_t n = list.n = mask ? close_up(mask, width, sorter.records) : width;
    list.many = labels ? static_cast<double>(count_events(sorter.records, n)) : static_cast<double>(n > 1);
    if (list.many == 0.0) return;
    sorter.sort(n);
    double* const own = x + list.at;
    uint32_t* const place = places + list.at;
    read_places(sorter.records, n, place);
    if (labels)
      read_events(sorter.records, n, event + list.at);
    else if (event)
      std::fill(event + list.at, event + list.at + n, 1.0);
    if (tied) list.ties = read_ties(sorter.records, n, tied_with + list.at);
    const T* const scores = scores_of(list.unit * width);
    for (int64_t k = 0; k < n; ++k) own[k] = static_cast<double>(scores[place[k]]);
    const auto [low, high, nan] = extremes(own, n);
    list.lost |= nan;
    list.careful = !(high - low < kFarthest) && !list.lost;
    if (list.careful) {
      if (!tops) tops = scratch.tops.get(count * width), apart = scratch.distances.get(count * width);
      std::copy(own, own + n, tops + list.at);
    }
    if constexpr (sizeof(T) == 8)
      distances(own, high, n, others + list.at);
    else
      distances(own, high, n);  // of floats there is no error in double
  }

  const T* scores_of(int64_t begin) {
    if constexpr (sizeof(T) == 4)
      return read_all(job.elements, job.own[0], begin, job.width, scratch.scores32);
    else
      return read_all(job.elements, job.own[0], begin, job.width, scratch.scores64);
  }

  void add_up(const List& list) {
    const int64_t at = list.at, n = list.n;
    any_kept |= weighted(list);
    if (list.careful) {
      std::copy(tops + at, tops + at + n, x + at);
      return far_apart(list).sums(others + at, kept + at, tops + at, apart + at);
    }
    if (efron && list.ties)
      return sums_of_efron(x + at, event + at, tied_with + at, n, others + at, kept + at, more().data());
    sums_after(x + at, n, others + at);
    if (list.ties) add_tied_before(x + at, tied_with + at, n, others + at);
  }

  // Memory for the steps of one list.
  std::array<double*, 3> more() {
    return {scratch.more[0].get(job.width), scratch.more[1].get(job.width), scratch.more[2].get(job.width)};
  }

  // Shares, the formula, what its slopes make of the elements, and the losses of the lists.
  void compute(int64_t n) {
    double block[kBlock], values[kBlock], unused[kBlock];
    auto list = scratch.lists.begin();
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t m = std::min(kBlock, n - at);
      double *const e = x + at, *const rest = others + at, *const slope = slopes + at;
      any_kept ? shares(e, rest, kept + at, m, block) : shares(e, rest, m, block);
      if (tops) {
        constexpr double kSmall = 1e-290;  // an exponential that has lost its digits, or is 0
        for (int64_t i = 0; i < m; ++i)
          if (e[i] < kSmall) block[i] = apart[at + i] - std::log(rest[i] + kept[at + i] * e[i]);
      }
      evaluate(job, m, block, nullptr, values, slope, unused);
      if (events) only_events(event + at, m, values, slope);
      for (int64_t done = 0; done < m; list += at + done == list->at + list->n) {
        const int64_t part = std::min(m - done, list->at + list->n - at - done);
        list->loss.add(sum_block(values + done, part));
        done += part;
      }
      if (!job.options.gradients) continue;
      any_kept ? takings(e, kept + at, m, slope, rest) : takings(e, m, slope, rest);
    }
  }

  void finish(const List& list, Sum& sum) {
    deliver(job, list.unit, (list.lost ? kNaN : list.loss.value()) * weight_of(job, list.unit), sum);
    if (!job.options.gradients) return;
    const int64_t at = list.at, n = list.n, begin = list.unit * job.width;
    double* const taken = scratch.before.get(job.width);
    if (list.careful) {
      far_apart(list).takings(slopes + at, kept + at, tops + at, taken);
    } else if (efron && list.ties) {
      takings_of_efron(slopes + at, kept + at, event + at, tied_with + at, n, taken, more().data());
    } else {
      sums_before(slopes + at, n, taken);
      if (list.ties) add_tied_after(slopes + at, tied_with + at, n, taken);
    }
    slopes_of(x + at, taken, list.lost ? kNaN : factor_of(job, list.unit), n, others + at);
    const DType dtype = job.gradient_dtypes[0];
    if (dtype == DType::kDouble) {
      spread(list, reinterpret_cast<double*>(job.gradients[0]) + begin);
    } else if (dtype == DType::kFloat) {
      spread(list, reinterpret_cast<float*>(job.gradients[0]) + begin);
    } else {
      float* const out = scratch.out.get(job.width);
      spread(list, out);
      write_gradient(job, out, job.width, begin);
    }
  }

  template <class To> void spread(const List& list, To* out) {
    if (list.n < job.width) std::fill(out, out + job.width, To(0));
    const double* const slope = others + list.at;
    const uint32_t* const place = places + list.at;
    for (int64_t k = 0; k < list.n; ++k) out[place[k]] = static_cast<To>(slope[k]);
  }
};

template <class T> void run_lists(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  const auto scratch = std::make_unique<ListScratch>();
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * job.rows;
    Lists<T>{job, *scratch, first, std::min(job.rows, job.units - first)}.run(job.sums[block]);
  }
}

}  // namespace
}  // namespace losskit
