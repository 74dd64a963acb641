// Lists of scores in the order of a key: the share of each in the exponentials of those from it on.
//
// 1. Several short lists are taken together, so that passes over arrays have long loops; a long one is taken alone.
// 2. Exponentials are those of the distance to the largest score of the list. In a list whose scores are so far apart
// that
//    they leave double, they are those of the distance to the largest score from the element on.
// 3. From the end of the list on, what comes after an element is added up; then shares, the formula and its slopes are
//    computed in arrays; then, from the beginning on, what the shares before an element take from it. Own exponentials
//    are left out of sums, not subtracted from them.
// 4. Of elements that are tied, the sums are those of all of them. With Efron's method the event at place l of d counts
//    1 - l/d of each tied event.
#pragma once

#include "ordered.h"

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
  double many;                  // events, or whether there are two elements
  bool lost, careful, grouped;  // NaN; scores far apart; not one after another
  Sum loss;
};

// What a thread needs for lists.
template <class Key> struct ListScratch {
  Sorter<Key> sorter;
  Buffer<double> x, others, kept, tops, distances, slopes;
  Buffer<double> scores64, keys64;
  Buffer<int64_t> integers;
  Buffer<float> scores32, keys32, mask, events, out;
  Buffer<uint32_t> places;
  Buffer<uint8_t> ties;
  std::vector<List> lists;
};

// What rounding took from a - b (Knuth's two-sum): a distance of 80 would cost its exponential 40 ULP in double.
LOSSKIT_INLINE double rounded_off(double a, double b, double difference) {
  const double taken = a - difference;
  return (a - (difference + taken)) + (taken - b);
}
LOSSKIT_INLINE double power_of(double a, double b) {
  if (a == b) return 1.0;  // infinities, too
  const double power = std::exp(a - b), error = rounded_off(a, b, a - b);
  return std::isfinite(error) ? power + power * error : power;
}
LOSSKIT_CLONES inline void distances(double* x, double high, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] -= high;
}
LOSSKIT_CLONES inline void distances(double* x, double high, int64_t n, double* errors) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double distance = x[i] - high;
    errors[i] = rounded_off(x[i], high, distance);
    x[i] = distance;
  }
}
LOSSKIT_CLONES inline void corrected(double* e, const double* errors, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) e[i] += e[i] * errors[i];
}

// From the end on: what comes after each element, of exponentials or (careful) of scores that become exponentials.
// Four at a time, so that the additions to the running sum do not wait for one another.
LOSSKIT_CLONES inline void sums_after(const double* e, int64_t n, double* others) {
  double rest = 0.0;
  int64_t k = n;
  for (; k >= 4; k -= 4) {
    const double last = e[k - 1], two = last + e[k - 2], three = two + e[k - 3], four = three + e[k - 4];
    others[k - 1] = rest, others[k - 2] = rest + last, others[k - 3] = rest + two, others[k - 4] = rest + three;
    rest += four;
  }
  for (; k > 0; --k) {
    others[k - 1] = rest;
    rest += e[k - 1];
  }
}

inline int64_t begin_of(const uint8_t* ties, int64_t end) {
  int64_t begin = end - 1;
  while (ties && begin > 0 && ties[begin]) --begin;
  return begin;
}

// tops: where the largest score from each element on is written, and `distances` to it, of which exponentials are made;
// null: `e` are exponentials already.
inline void sums_of_groups(double* e, const uint32_t* places, const uint8_t* ties, bool events, bool efron,
                           double* tops, double* distances, int64_t n, double* others, double* kept) {
  double rest = 0.0, top = -infinity<double>;
  for (int64_t end = n, begin; end > 0; end = begin) {
    begin = begin_of(ties, end);
    if (begin + 1 == end && !tops) {  // mostly
      const bool event = !events || (places[begin] & kFlag);
      others[begin] = event ? rest : 1.0;
      kept[begin] = 1.0;
      rest += e[begin];
      continue;
    }
    if (tops) {
      const double highest = std::max(top, *std::max_element(e + begin, e + end));
      rest *= power_of(top, highest);
      top = highest;
      for (int64_t k = begin; k < end; ++k) {
        distances[k] = e[k] == top ? 0.0 : e[k] - top;
        e[k] = power_of(e[k], top);
        tops[k] = top;
      }
    }
    double of_others = 0.0, of_events = 0.0, before = 0.0;
    int64_t many = 0, place = 0;
    for (int64_t k = end - 1; k >= begin; --k) {
      if (events && !(places[k] & kFlag)) {
        of_others += e[k];
        continue;
      }
      others[k] = of_events;
      of_events += e[k];
      ++many;
    }
    for (int64_t k = begin; k < end; ++k) {
      kept[k] = 1.0;
      if (events && !(places[k] & kFlag)) {
        others[k] = 1.0;  // of what has no share, anything but 0 / 0
        continue;
      }
      if (efron) kept[k] = 1.0 - static_cast<double>(place++) / static_cast<double>(many);
      others[k] = rest + of_others + kept[k] * (others[k] + before);
      before += e[k];
    }
    rest += of_others + of_events;
  }
}

LOSSKIT_CLONES inline void shares(const double* e, const double* others, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = -log1p(others[i] / e[i]);
}
LOSSKIT_CLONES inline void shares(const double* e, const double* others, const double* kept, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = -log1p(others[i] / (kept[i] * e[i])) - log(kept[i]);
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

template <class T>
void spread(const double* e, const double* own, const double* taken, const uint32_t* places, double factor, int64_t n,
            T* out) {
  const auto give = [&](int64_t k, double before) __attribute__((always_inline)) {
    out[places[k] & ~kFlag] = static_cast<T>((own[k] - e[k] * before) * factor);
  };
  double carry = 0.0;
  int64_t k = 0;
  for (; k + 4 <= n; k += 4) {
    const double one = taken[k], two = one + taken[k + 1], three = two + taken[k + 2], four = three + taken[k + 3];
    give(k, carry), give(k + 1, carry + one), give(k + 2, carry + two), give(k + 3, carry + three);
    carry += four;
  }
  for (; k < n; ++k) {
    give(k, carry);
    carry += taken[k];
  }
}

template <class T>
void spread_groups(const double* e, const double* own, const double* taken, const double* kept, const uint32_t* places,
                   const uint8_t* ties, bool events, const double* tops, double factor, int64_t n, T* out) {
  double carry = 0.0;
  for (int64_t begin = 0, end; begin < n; begin = end) {
    end = begin + 1;
    while (ties && end < n && ties[end]) ++end;
    if (begin + 1 == end && !tops) {
      out[places[begin] & ~kFlag] = static_cast<T>((own[begin] - e[begin] * carry) * factor);
      carry += taken[begin];
      continue;
    }
    if (tops && begin > 0) carry *= power_of(tops[begin], tops[begin - 1]);
    double all = 0.0, after = 0.0, before = 0.0;
    for (int64_t k = begin; k < end; ++k) all += taken[k];
    for (int64_t k = end - 1; k > begin; --k) after += kept[k] * taken[k];
    for (int64_t k = begin; k < end; ++k) {
      const bool event = !events || (places[k] & kFlag);
      const double tied = event ? before + after : all;
      out[places[k] & ~kFlag] = static_cast<T>((own[k] - e[k] * (carry + tied)) * factor);
      before += kept[k] * taken[k];
      if (k + 1 < end) after -= kept[k + 1] * taken[k + 1];
    }
    carry += all;
  }
}

// The lists from `first` on that are taken together. T: of scores as they are read.
template <class Key, class T> struct Lists {
  Job& job;
  ListScratch<Key>& scratch;
  int64_t first, count;
  const bool events = job.event >= 0, descending = wire::ordered::descending(job.options.family);
  const bool tied = wire::ordered::tied(job.options.family), efron = wire::ordered::efron(job.options.family);

  // Elements in order, one list after another.
  double *x = nullptr, *others = nullptr, *kept = nullptr, *slopes = nullptr;
  double *tops = nullptr, *apart = nullptr;  // of lists whose scores are far apart
  uint32_t* places = nullptr;
  uint8_t* ties = nullptr;
  bool any_kept = false;

  void run(Sum& sum) {
    const int64_t width = job.width, most = count * width;
    x = scratch.x.get(most), others = scratch.others.get(most), kept = scratch.kept.get(most);
    slopes = scratch.slopes.get(most), places = scratch.places.get(most);
    ties = tied ? scratch.ties.get(most) : nullptr;
    scratch.sorter.reserve(width);
    auto& lists = scratch.lists;
    lists.clear();
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t unit = first + i;
      List list{unit, at, 0, 0.0, false, false, false, {}};
      if (counts(job, unit)) sort(list);
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
      if (any_kept && !list.grouped) std::fill(kept + list.at, kept + list.at + list.n, 1.0);
    compute(at);
    for (const List& list : lists) finish(list, sum);
  }

  // The elements of a list in order, as distances to the largest score.
  void sort(List& list) {
    const int64_t width = job.width, begin = list.unit * width;
    const float* mask =
        job.masks < 0 ? nullptr : read_all(job.elements, job.own[job.masks], begin, width, scratch.mask);
    const float* event = events ? read_all(job.elements, job.own[2], begin, width, scratch.events) : nullptr;
    Record<Key>* const records = scratch.sorter.records;
    const Key flip = descending ? ~Key(0) : Key(0);
    int64_t n = 0, many = 0;
    const auto record = [&](auto x, int64_t i) __attribute__((always_inline)) {
      list.lost |= x != x;
      return Record<Key>{static_cast<Key>(static_cast<Key>(ordered_key(x)) ^ flip), static_cast<uint32_t>(i)};
    };
    const auto take = [&](const auto* from) __attribute__((always_inline)) {
      for (int64_t i = 0; i < width && !mask; ++i) records[i] = record(from[i], i);
      if (!mask) n = width;
      for (int64_t i = 0; i < width && mask; ++i)
        if (mask[i] != 0.0f) records[n++] = record(from[i], i);
    };
    if constexpr (sizeof(Key) == 4) {
      take(read_all(job.elements, job.own[1], begin, width, scratch.keys32));
    } else if (floating(job.own[1].dtype)) {
      take(read_all(job.elements, job.own[1], begin, width, scratch.keys64));
    } else {
      take(read_all(job.elements, job.own[1], begin, width, scratch.integers));
    }
    if (event) {
      for (int64_t k = 0; k < n; ++k) {
        const float label = event[records[k].payload];
        if (job.options.checks != kOff && label != 0.0f && label != 1.0f && label == label) {
          list.lost = true;
          if (job.options.checks == kRaise) {
            const int64_t place = begin + records[k].payload;
            job.report({0, place, static_cast<int64_t>(Violation::kLabel), place, static_cast<double>(label)});
          }
        }
        list.lost |= label != label;
        if (label != 0.0f) records[k].payload |= kFlag, ++many;
      }
    }
    list.n = n;
    list.many = event ? static_cast<double>(many) : static_cast<double>(n > 1);
    if (list.many == 0.0) return;
    scratch.sorter.sort(n);
    const Record<Key>* const sorted = scratch.sorter.records;
    double* const own = x + list.at;
    uint32_t* const place = places + list.at;
    const T* const scores = scores_of(begin);
    for (int64_t k = 0; k < n; ++k) place[k] = sorted[k].payload;
    for (int64_t k = 0; k < n; ++k) own[k] = static_cast<double>(scores[place[k] & ~kFlag]);
    if (ties) {
      ties[list.at] = 0;
      for (int64_t k = 1; k < n; ++k) list.grouped |= ties[list.at + k] = sorted[k].key == sorted[k - 1].key;
    }
    scratch.sorter.reserve(width);  // the arrays that the next list begins in
    const auto [low, high, nan] = extremes(own, n);
    list.careful = !(high - low < kFarthest);
    list.lost |= nan;
    list.careful &= !list.lost;
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

  void add_up(List& list) {
    double* const e = x + list.at;
    list.grouped |= list.careful;
    if (list.careful) std::copy(tops + list.at, tops + list.at + list.n, e);
    if (!list.grouped) {
      sums_after(e, list.n, others + list.at);
      return;
    }
    any_kept |= efron || list.careful;
    sums_of_groups(e, places + list.at, ties ? ties + list.at : nullptr, events, efron,
                   list.careful ? tops + list.at : nullptr, apart + list.at, list.n, others + list.at, kept + list.at);
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
      if (events)
        for (int64_t i = 0; i < m; ++i)
          if (!(places[at + i] & kFlag)) values[i] = 0.0, slope[i] = 0.0;
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
    const DType dtype = job.gradient_dtypes[0];
    const int64_t begin = list.unit * job.width;
    if (dtype == DType::kDouble) {
      spread_to(list, reinterpret_cast<double*>(job.gradients[0]) + begin);
    } else if (dtype == DType::kFloat) {
      spread_to(list, reinterpret_cast<float*>(job.gradients[0]) + begin);
    } else {
      float* const out = scratch.out.get(job.width);
      spread_to(list, out);
      write_gradient(job, out, job.width, begin);
    }
  }

  template <class To> void spread_to(const List& list, To* out) {
    if (list.n < job.width) std::fill(out, out + job.width, To(0));
    const double factor = list.lost ? kNaN : factor_of(job, list.unit);
    const int64_t at = list.at;
    if (list.grouped)
      spread_groups(x + at, others + at, slopes + at, kept + at, places + at, ties ? ties + at : nullptr, events,
                    list.careful ? tops + at : nullptr, factor, list.n, out);
    else
      losskit::spread(x + at, others + at, slopes + at, places + at, factor, list.n, out);
  }
};

template <class Key, class T> void run_lists(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  const auto scratch = std::make_unique<ListScratch<Key>>();
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * job.rows;
    Lists<Key, T>{job, *scratch, first, std::min(job.rows, job.units - first)}.run(job.sums[block]);
  }
}

}  // namespace
}  // namespace losskit
