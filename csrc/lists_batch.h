// Ranking lists, a batch of them: their items in order, the sweep over their pairs, gradients and losses.
#pragma once

#include "lists.h"

namespace losskit {
namespace {

constexpr int64_t kFew = 128;  // items that are sorted by comparing each with each
constexpr double kLog2 = 0.6931471805599453;

enum State : uint8_t { kCounts, kOut, kBad };

// An item by what it is sorted by: the largest key first, of equal ones the first.
struct Key {
  double key;
  int32_t place;
  bool operator<(const Key& other) const { return key > other.key || (key == other.key && place < other.place); }
};

struct List {
  int64_t begin = 0, n = 0, pairs = 0;  // its items in the arrays of the batch, those that may make pairs
  State state = kOut;
};

// Buffers of the pairs in L1, in the type of the arithmetic.
template <class C> struct Pairs {
  alignas(64) C operands[kOperands - 1][kBlock + kLanes];
  alignas(64) C values[kBlock + kLanes] = {};
  alignas(64) C slopes[kBlock + kLanes] = {};
  std::vector<C> scores;
};

template <class T> struct Scratch : Weights {
  Pairs<T> pairs;
  std::unique_ptr<Pairs<double>> wide;
  std::vector<Segment> segments;
  std::vector<List> lists;
  std::vector<Sum> losses;
  std::vector<T> rounded;  // losses
  // Of each item that makes pairs, by list and relevance: its place, rank, and the end of those as relevant as it.
  std::vector<int32_t> places, ranks, ends;
  std::vector<T> scores;
  std::vector<double> relevance, gains, discounts, totals;
  // Of each item of the batch, as it is given.
  std::vector<T> given_scores;
  std::vector<double> given_relevance;
  // Of each item of one list, by its place.
  std::vector<T> out;
  std::vector<uint8_t> there;
  std::vector<int32_t> rank_of_place;
  std::vector<Key> unsorted, keys;
  std::vector<double> gain_of_item;
  std::vector<char> narrow;
};

// The pairs of lists, gathered until they fill the buffers.
template <class T, class C> struct Sweep {
  Job& job;
  Scratch<T>& scratch;
  Pairs<C>& pairs;
  const bool gradient;
  int64_t filled = 0;

  // All pairs of a list, in tiles of second items that stay in L1.
  void run(int64_t number) {
    const List& list = scratch.lists[number];
    const int64_t last = list.begin + list.n;
    for (int64_t from = list.begin; from < last; from += kBlock) {
      const int64_t to = std::min(last, from + kBlock);
      for (int64_t i = list.begin; i < to && scratch.ends[i] < to; ++i)
        add(number, i, std::max<int64_t>(from, scratch.ends[i]), to);
    }
  }

  void add(int64_t number, int64_t i, int64_t from, int64_t to) {
    while (from < to) {
      const int64_t n = std::min(to - from, kBlock - filled);
      scratch.segments.push_back({number, i, from, n});
      from += n;
      filled += n;
      if (filled == kBlock) flush();
    }
  }

  void flush() {
    if (filled == 0) return;
    const Segment* segments = scratch.segments.data();
    const auto count = static_cast<int64_t>(scratch.segments.size());
    const C* operands[kOperands] = {};
    for (int k = 0; k < job.kernel->operands; ++k) operands[k] = operand(k, segments, count);
    C* derivatives[kOperands] = {pairs.slopes};
    run_formula(job, gradient ? kPredictions : kNone, filled, operands, 1.0, pairs.values, derivatives);
    add_values(pairs.values, segments, count, scratch.losses.data());
    if (gradient) add_slopes(pairs.slopes, segments, count, scratch.totals.data());
    scratch.segments.clear();
    filled = 0;
  }

  const C* operand(int k, const Segment* segments, int64_t count) {
    C* out = pairs.operands[k];
    switch (job.statistic(k)) {
      case Statistic::kRelevanceDifference:
        apart(scratch.relevance.data(), segments, count, out);
        break;
      case Statistic::kGainDifference:
        apart(scratch.gains.data(), segments, count, out);
        break;
      case Statistic::kDiscountDifference:
        apart(scratch.discounts.data(), segments, count, out);
        break;
      case Statistic::kDistanceDiscount:
        look_up(job.steps.data(), scratch.ranks.data(), segments, count, out);
        break;
      case Statistic::kRank:
      case Statistic::kOtherRank:
        copy_ranks(scratch.ranks.data(), job.statistic(k) == Statistic::kRank, segments, count, out);
        break;
      default:  // the first operand; or one that is not used
        if (k > 0) return pairs.operands[0];
        subtract(scores(), segments, count, out);
    }
    return out;
  }
  const C* scores() {
    if constexpr (sizeof(C) == sizeof(T))
      return scratch.scores.data();
    else
      return pairs.scores.data();
  }
};

template <class T> struct Batch {
  static constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  Job& job;
  Scratch<T>& scratch;
  const int64_t begin, rows;
  const bool gradient = job.gradients[0] != nullptr;

  void run() {
    resize();
    read_rows(job.score_dtype, job.scores, job.score_steps, begin, rows, job.items, scratch.given_scores.data());
    read_rows(job.relevance_dtype, job.relevance, job.relevance_steps, begin, rows, job.items,
              scratch.given_relevance.data());
    int64_t items = 0;
    for (int64_t r = 0; r < rows; ++r) {
      scratch.lists[r] = {items, 0, 0, job.counts[begin + r] != 0.0f ? kCounts : kOut};
    }
    if (const float* mask = mask_of(job, begin, rows, scratch))
      for (int64_t r = 0; r < rows; ++r)
        if (mask[r] == 0.0f) scratch.lists[r].state = kOut;
    for (int64_t r = 0; r < rows; ++r) {
      scratch.lists[r].begin = items;
      if (scratch.lists[r].state == kCounts && !collect(r)) return;
      items += scratch.lists[r].n;
    }
    std::fill(scratch.totals.begin(), scratch.totals.begin() + items + kLanes, 0.0);
    Sweep<T, T> sweep{job, scratch, scratch.pairs, gradient};
    for (int64_t r = 0; r < rows; ++r)
      if (scratch.lists[r].state == kCounts) sweep.run(r);
    sweep.flush();
    if (sizeof(T) == 4) widen_infinite(items);
    write();
  }

  void resize() {
    const int64_t most = rows * job.items + kLanes;
    scratch.lists.resize(rows);
    scratch.losses.assign(rows, Sum());
    scratch.rounded.resize(rows);
    if (static_cast<int64_t>(scratch.places.size()) >= most) return;
    for (auto* x : {&scratch.places, &scratch.ranks, &scratch.ends}) x->resize(most);
    for (auto* x : {&scratch.relevance, &scratch.gains, &scratch.discounts, &scratch.totals}) x->resize(most);
    scratch.scores.resize(most);
    scratch.given_scores.resize(most);
    scratch.given_relevance.resize(most);
    scratch.out.resize(job.items);
    scratch.there.assign(job.items, 1);
    scratch.rank_of_place.resize(job.items);
    scratch.unsorted.resize(job.items);
    scratch.gain_of_item.resize(job.items);
    scratch.narrow.resize(job.items * sizeof(double));
  }

  // The items of a list by relevance; false if checks("raise") finds a violation.
  bool collect(int64_t r) {
    List& list = scratch.lists[r];
    const int64_t row = begin + r;
    const T* scores = scratch.given_scores.data() + r * job.items;
    const double* relevances = scratch.given_relevance.data() + r * job.items;
    find_items(row);
    for (int64_t j = 0; j < job.items; ++j) {
      if (!scratch.there[j]) continue;
      const double relevance = relevances[j];
      if (job.options.checks != kOff && relevance < 0.0) {
        const int64_t place = row * job.items + j;
        list.state = kBad;
        if (job.options.checks != kRaise) break;
        job.report({0, place, kRelevance, place, relevance});
        return false;
      }
      if (relevance != relevance || scores[j] != scores[j]) list.state = kBad;
    }
    if (list.state == kCounts) sort(list, scores, relevances);
    return true;
  }
  void find_items(int64_t row) {
    if (!job.there) return;  // all of them
    const char* there = job.there + row * job.there_steps[0];
    for (int64_t j = 0; j < job.items; ++j) scratch.there[j] = there[j * job.there_steps[1]] != 0;
  }

  // The keys of the items that count, sorted. In short lists an item is put where it belongs, by what is before it:
  // branches that cannot be foretold cost more.
  template <class X> void sort_by(const X* numbers) {
    int64_t n = 0;
    for (int64_t j = 0; j < job.items; ++j)
      if (scratch.there[j]) scratch.unsorted[n++] = {static_cast<double>(numbers[j]), static_cast<int32_t>(j)};
    scratch.keys.resize(n);
    if (n > kFew) {
      std::copy_n(scratch.unsorted.begin(), n, scratch.keys.begin());
      return std::sort(scratch.keys.begin(), scratch.keys.end());
    }
    double keys[kFew];
    int32_t before[kFew];
    for (int64_t i = 0; i < n; ++i) keys[i] = scratch.unsorted[i].key;
    count_before(keys, n, before);
    for (int64_t i = 0; i < n; ++i) scratch.keys[before[i]] = scratch.unsorted[i];
  }

  void sort(List& list, const T* scores, const double* relevances) {
    if (job.ranked) {
      sort_by(scores);
      int32_t rank = 0;
      for (const Key& item : scratch.keys) scratch.rank_of_place[item.place] = ++rank;
    }
    sort_by(relevances);
    const double largest = job.weighed ? weigh() : 1.0;
    int64_t at = list.begin, item = 0;
    for (const auto& [relevance, place] : scratch.keys) {
      const int32_t rank = job.ranked ? scratch.rank_of_place[place] : 0;
      const double gain = job.weighed ? scratch.gain_of_item[item++] / largest : 0.0;
      if (rank > job.most) continue;
      scratch.places[at] = place;
      scratch.ranks[at] = rank;
      scratch.scores[at] = scores[place];
      scratch.relevance[at] = relevance;
      scratch.gains[at] = gain;
      scratch.discounts[at] = job.discounts[rank];
      ++at;
    }
    list.n = at - list.begin;
    for (int64_t i = list.begin; i < at;) {
      int64_t end = i + 1;
      while (end < at && scratch.relevance[end] == scratch.relevance[i]) ++end;
      list.pairs += (end - i) * (at - end);
      for (; i < end; ++i) scratch.ends[i] = static_cast<int32_t>(end);
    }
  }

  // The gains of the sorted items, times a power of two, so that 2^relevance may overflow; gives the largest DCG.
  double weigh() {
    const int64_t n = scratch.keys.size(), most = std::min(job.most, n);
    double total = 0.0, last = -1.0, gain = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      const double relevance = scratch.keys[i].key;
      if (relevance != last) gain = std::exp2(relevance - scratch.keys[0].key) * -std::expm1(relevance * -kLog2);
      last = relevance;
      scratch.gain_of_item[i] = gain;
      if (i < most) total += gain * job.discounts[i + 1];
    }
    return total > 0.0 ? total : 1.0;
  }

  // Lists with a sum that is not finite, once more in double, where intermediate results do not overflow.
  void widen_infinite(int64_t items) {
    for (int64_t r = 0; r < rows; ++r) {
      const List& list = scratch.lists[r];
      if (list.state != kCounts) continue;
      bool finite = std::isfinite(scratch.losses[r].high);
      for (int64_t i = list.begin; gradient && i < list.begin + list.n; ++i) finite &= std::isfinite(scratch.totals[i]);
      if (finite) continue;
      if (!scratch.wide) scratch.wide = std::make_unique<Pairs<double>>();
      scratch.wide->scores.assign(scratch.scores.begin(), scratch.scores.begin() + items + kLanes);
      scratch.losses[r] = Sum();
      std::fill_n(scratch.totals.begin() + list.begin, list.n, 0.0);
      Sweep<T, double> sweep{job, scratch, *scratch.wide, gradient};
      sweep.run(r);
      sweep.flush();
    }
  }

  void write() {
    const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, rows, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      const List& list = scratch.lists[r];
      const double share = job.averaged ? 1.0 / std::max<double>(1.0, static_cast<double>(list.pairs)) : 1.0;
      const double weight = factor ? factor[r] * share : share;
      const double nan = std::numeric_limits<double>::quiet_NaN();
      const double value = list.state == kCounts ? scratch.losses[r].value() * weight : list.state == kBad ? nan : 0.0;
      scratch.rounded[r] = static_cast<T>(value);
      if (gradient) write_gradient(r, list, weight * job.scale);
    }
    if (job.sources[kUpstream].present()) return;
    if (job.options.reduction != kElements)
      job.sums[begin / job.batch] = sum_block(scratch.rounded.data(), rows);
    else
      write_run(job.result, scratch.rounded.data(), rows, job.values + begin * size_of(job.result));
  }

  void write_gradient(int64_t r, const List& list, double scale) {
    const DType dtype = job.gradient_dtypes[0];
    const int64_t item = size_of(dtype);
    char* to = job.gradients[0] + (begin + r) * job.gradient_steps[0] * item;
    const bool dense = job.gradient_steps[1] == 1 || job.items == 1;
    T* out = dense && dtype == kOwn ? reinterpret_cast<T*>(to) : scratch.out.data();
    std::fill(out, out + job.items, T(0));
    if (list.state == kBad) {
      find_items(begin + r);
      for (int64_t j = 0; j < job.items; ++j)
        if (scratch.there[j]) out[j] = std::numeric_limits<T>::quiet_NaN();
    }
    for (int64_t i = list.begin; i < list.begin + list.n; ++i)
      if (const double total = scratch.totals[i]; total != 0.0) out[scratch.places[i]] = static_cast<T>(total * scale);
    if (out != scratch.out.data()) return;
    if (dense) return write_run(dtype, out, job.items, to);
    write_run(dtype, out, job.items, scratch.narrow.data());
    for (int64_t j = 0; j < job.items; ++j)
      std::memcpy(to + j * job.gradient_steps[1] * item, scratch.narrow.data() + j * item, item);
  }
};

}  // namespace
}  // namespace losskit
