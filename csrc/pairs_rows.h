// Rows of similarities of the pairs family: their losses, and the gradient in place of the similarities.
//
// 1. The columns come in an order in which those of one label follow each other, so the positives of a row are a piece
//    of this order, from `first` to `last`. They are taken out of the row, which then is negatives alone: the passes
//    over it know nothing of labels. Where rows are columns too, row r is column r, no pair.
// 2. What is taken out leaves a number that changes nothing: -inf for exponentials and maxima, inf for minima, 0 for
//    sums. Before a term is applied it is 0, so that no infinite number reaches a formula.
// 3. Rows come in groups, so that the formula of the aggregates, in double, sees some at a time, and so that their
//    numbers stay in cache until its derivatives are spread. A row is computed alike whatever the threads.
// 4. Sums of exponentials and terms are in double, as is the gradient of the positives, which cancels.
// 5. Where columns look for their rows, too, a first run, of the turned matrix, surveys what the gradient by a column's
//    similarities is made of: pivot, factor of exponentials, what is added, and that of its positive. A second run, of
//    rows, adds it to its own. So both directions take four matrix products, not six.
#pragma once

#include "pairs.h"

namespace losskit {
namespace {

constexpr int64_t kGroup = 32768;  // numbers of a group: 128 KB of floats
enum { kPivot, kFactor, kMore, kOfPositive, kSurveyed };

// What is the same for all rows.
template <class T> struct Job {
  int64_t columns;
  bool own;  // whether row r is column r
  const int64_t *order, *first, *last;
  const double* share;
  double* values;
  double* survey;  // kSurveyed numbers for each row, instead of gradients
  T scale, bias;
  const Kernel* formula;
  double parameters[kMaxParameters] = {};
  std::vector<int64_t> statistics;  // side and aggregate of each operand of the formula
  bool wanted[2][kAggregates] = {};
  Term<T> terms[2];
  const double* turned = nullptr;        // the survey of the columns
  std::vector<T> pivots, factors, adds;  // of it
  int64_t group = 1;

  void take_survey(const double* given) {
    turned = given;
    for (int64_t j = 0; j < columns; ++j) {
      const double* own = turned + j * kSurveyed;
      pivots.push_back(static_cast<T>(own[kPivot]));
      factors.push_back(static_cast<T>(own[kFactor]));
      adds.push_back(static_cast<T>(own[kMore]));
    }
  }
  bool spreads() const { return share && !survey; }
  // Whether sums of terms, or exponentials of similarities, are all that is wanted of a side.
  bool of_terms(int side) const {
    const bool* want = wanted[side];
    return terms[side].present() && !want[kLogSumExp] && !want[kLargest] && !want[kSmallest];
  }
  bool of_powers(int side) const {
    const bool* want = wanted[side];
    return !terms[side].present() && !want[kTotal] && !want[kAverage] && !want[kLargest] && !want[kSmallest];
  }
  bool wants(int side) const {
    for (bool one : wanted[side])
      if (one) return true;
    return false;
  }
};

// The rows of a group: where their similarities lie, their positives, and the slopes of the negatives' terms.
template <class T> struct Group {
  T* x;
  int64_t stride;
  std::vector<T> positives, positive_slopes, negative_slopes;
  std::vector<T> of_columns;  // what columns add to the gradients of the rows
  std::vector<int64_t> places, starts;
  std::vector<Side<T>> sides[2];
  std::vector<double> known, by;

  explicit Group(const Job<T>& job) {
    for (auto& side : sides) side.resize(job.group);
    if (job.spreads() && job.terms[1].present() && !job.of_terms(1)) negative_slopes.resize(job.group * job.columns);
    if (job.turned) of_columns.resize(job.group * job.columns);
    known.resize(job.statistics.size() * job.group);
    by.resize(job.statistics.size() * job.group);
  }
  void start(T* first, int64_t between) {
    x = first, stride = between;
    positives.clear();
    places.clear();
    starts.assign(1, 0);
    for (auto& side : sides) std::fill(side.begin(), side.end(), Side<T>());
  }
};

double sum_of(const float* x, int64_t n) {
  Sum total;
  for (int64_t i = 0; i < n; i += kBlock) total.add(sum_block(x + i, std::min(kBlock, n - i)).high);
  return total.value();
}
double sum_of(const double* x, int64_t n) {
  Sum total;
  for (int64_t i = 0; i < n; i += kBlock) total.add(sum_block(x + i, std::min(kBlock, n - i)));
  return total.value();
}

// The aggregates of the terms scale x + bias, of which those at `holes` do not count. Log-sum-exp leaves exponentials
// in their place. Where scale and bias are not 1 and 0, it is the only one that is wanted, and scale is above 0.
template <class T>
void aggregate(T* x, int64_t n, T scale, T bias, const int64_t* holes, int64_t count_holes, const bool* wanted,
               Side<T>& side) {
  const auto fill = [&](T with) {
    for (int64_t k = 0; k < count_holes; ++k) x[holes[k]] = with;
  };
  side.count = n - count_holes;
  if (side.count == 0) {
    if (wanted[kLogSumExp]) std::fill(x, x + n, T(0));
    return;
  }
  double* known = side.known;
  if (wanted[kTotal] || wanted[kAverage]) {
    fill(T(0));
    side.total(sum_of(x, n));
  }
  if (wanted[kSmallest]) {
    fill(infinity<T>);
    side.extremes[1] = extreme(x, n, true);
    known[kSmallest] = x[side.extremes[1]];
  }
  if (!wanted[kLargest] && !wanted[kLogSumExp]) return;
  fill(-infinity<T>);
  if (wanted[kLargest]) {
    side.extremes[0] = extreme(x, n, false);
    known[kLargest] = x[side.extremes[0]];
  }
  if (!wanted[kLogSumExp]) return;
  T pivot = largest(x, n, scale, bias);
  if (pivot == -infinity<T>) pivot = T(0);
  side.pivot = static_cast<double>(pivot);
  Sum total;
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t size = std::min(kBlock, n - i);
    powers(x + i, size, scale, bias, pivot);
    total.add(sum_block(x + i, size));
  }
  side.powers = total.value();
  known[kLogSumExp] = side.powers == 0.0 ? kLeast : static_cast<double>(pivot) + std::log(side.powers);
}

// The same where sums of terms are all that is wanted: their slopes, if there are to be any, take the place of x.
template <class T>
void sum_terms(const Job<T>& job, T* x, int64_t n, const int64_t* holes, int64_t count_holes, Side<T>& side) {
  side.count = n - count_holes;
  Sum total;
  T terms[kBlock];
  for (int64_t i = 0, k = 0; i < n; i += kBlock) {
    const int64_t size = std::min(kBlock, n - i);
    affine(x + i, size, job.scale, job.bias);
    job.terms[1].apply(x + i, size, terms, job.spreads() ? x + i : nullptr);
    for (; k < count_holes && holes[k] < i + size; ++k) terms[holes[k] - i] = T(0);
    total.add(sum_block(terms, size));
  }
  if (side.count) side.total(total.value());
}

// The places of a row that are no negatives, in their order: positives, and the row itself.
template <class T> const int64_t* holes_of(const Job<T>& job, int64_t row, int64_t& count) {
  count = job.last[row] - job.first[row];
  return job.order + job.first[row];
}

// Takes the positives of a row out of it, and finds what is known of both sides.
template <class T> void look_at(const Job<T>& job, int64_t row, int64_t at, Group<T>& group) {
  T* x = group.x + at * group.stride;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  const size_t start = group.positives.size();
  for (int64_t k = 0; k < count; ++k) {
    if (job.own && holes[k] == row) continue;
    group.positives.push_back(x[holes[k]]);
    group.places.push_back(holes[k]);
  }
  const int64_t positives = static_cast<int64_t>(group.positives.size() - start);
  group.starts.push_back(static_cast<int64_t>(group.positives.size()));
  group.positive_slopes.resize(group.positives.size());
  T* taken = group.positives.data() + start;
  affine(taken, positives, job.scale, job.bias);
  if (job.terms[0].present())
    job.terms[0].apply(taken, positives, taken, job.share ? group.positive_slopes.data() + start : nullptr);
  aggregate(taken, positives, T(1), T(0), nullptr, 0, job.wanted[0], group.sides[0][at]);
  if (!job.wants(1)) return;
  for (int64_t k = 0; k < count; ++k) x[holes[k]] = T(0);
  Side<T>& side = group.sides[1][at];
  if (job.of_terms(1)) return sum_terms(job, x, job.columns, holes, count, side);
  const bool later = job.scale > T(0) && job.of_powers(1);
  if (!later) affine(x, job.columns, job.scale, job.bias);
  const T scale = later ? job.scale : T(1), bias = later ? job.bias : T(0);
  if (job.terms[1].present())
    job.terms[1].apply(x, job.columns, x, job.spreads() ? group.negative_slopes.data() + at * job.columns : nullptr);
  if (job.turned)
    shares_of(x, job.columns, scale, bias, job.pivots.data(), job.factors.data(), job.adds.data(),
              group.of_columns.data() + at * job.columns);
  aggregate(x, job.columns, scale, bias, holes, count, job.wanted[1], side);
}

// The formula of the rows from `from` on, n of them, and its derivatives.
template <class T> void evaluate(const Job<T>& job, int64_t from, int64_t n, Group<T>& group) {
  const size_t operands = job.statistics.size();
  const double* known[kOperands] = {};
  double* by[kOperands] = {};
  for (size_t k = 0; k < operands; ++k) {
    double* column = group.known.data() + k * job.group;
    const int64_t side = job.statistics[k] / kAggregates, which = job.statistics[k] % kAggregates;
    for (int64_t i = 0; i < n; ++i) column[i] = group.sides[side][i].known[which];
    known[k] = column;
    by[k] = group.by.data() + k * job.group;
  }
  const int all = (1 << job.formula->operands) - 1;
  const int variant = !job.share ? kNone : all & ~job.formula->predictions ? kAll : kPredictions;
  job.formula->f64[variant](n, known, job.parameters, 1.0, job.values + from, by);
}

// The derivatives by the aggregates of a row, times its share.
template <class T> struct Slopes {
  double by[2][kAggregates] = {};
  Slopes(const Job<T>& job, double share, int64_t at, const Group<T>& group) {
    for (size_t k = 0; k < job.statistics.size(); ++k)
      by[job.statistics[k] / kAggregates][job.statistics[k] % kAggregates] = share * group.by[k * job.group + at];
  }
  // Of the exponentials of a side, and of each of its terms.
  double factor(int which, const Side<T>& side) const {
    return side.powers == 0.0 ? 0.0 : by[which][kLogSumExp] / side.powers;
  }
  double each(int which, int64_t count) const {
    return by[which][kTotal] + (count ? by[which][kAverage] / static_cast<double>(count) : 0.0);
  }
};

// What the gradient by a row's similarities is made of, for a row with one positive and no terms.
template <class T> void survey(const Job<T>& job, int64_t row, int64_t at, const Group<T>& group) {
  const Slopes<T> slopes(job, job.share[row], at, group);
  const Side<T>&negatives = group.sides[1][at], &positives = group.sides[0][at];
  double* out = job.survey + row * kSurveyed;
  out[kPivot] = negatives.pivot;
  out[kFactor] = slopes.factor(1, negatives);
  out[kMore] = slopes.each(1, negatives.count);
  out[kOfPositive] = slopes.factor(0, positives) * positives.powers + slopes.each(0, positives.count);
}

// Adds what the columns say of their similarities with a row.
template <class T> void add_columns(const Job<T>& job, int64_t row, int64_t at, Group<T>& group) {
  if (!job.turned) return;
  T* x = group.x + at * group.stride;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  T* more = group.of_columns.data() + at * job.columns;
  for (int64_t k = 0; k < count; ++k) more[holes[k]] = static_cast<T>(job.turned[holes[k] * kSurveyed + kOfPositive]);
  add_to(x, job.columns, more);
}

// The gradient of a row in the place of its similarities.
template <class T> void spread_over(const Job<T>& job, int64_t row, int64_t at, Group<T>& group) {
  T* x = group.x + at * group.stride;
  const double share = job.share[row];
  if (share == 0.0) {
    std::fill(x, x + job.columns, T(0));
    return;
  }
  const Slopes<T> all(job, share, at, group);
  const auto& by = all.by;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  if (job.wants(1)) {
    const Side<T>& side = group.sides[1][at];
    const T* slopes = group.negative_slopes.data() + at * job.columns;
    const bool exponentials = job.wanted[1][kLogSumExp], term = job.terms[1].present();
    const T factor = static_cast<T>(all.factor(1, side)), more = static_cast<T>(all.each(1, side.count));
    if (job.of_terms(1))
      multiply_by(x, job.columns, more);
    else if (exponentials && !term && more == T(0))
      multiply_by(x, job.columns, factor);
    else if (exponentials && !term)
      affine(x, job.columns, factor, more);
    else if (exponentials)
      spread(x, job.columns, factor, more, slopes);
    else if (term)
      slopes_into(x, job.columns, more, slopes);
    else
      std::fill(x, x + job.columns, more);
    for (int which = 0; which < 2; ++which) {
      const int64_t place = side.extremes[which];
      const Aggregate what = which ? kSmallest : kLargest;
      if (job.wanted[1][what] && side.count) x[place] += static_cast<T>(by[1][what]) * (term ? slopes[place] : T(1));
    }
  } else {
    std::fill(x, x + job.columns, T(0));
  }
  for (int64_t k = 0; k < count; ++k) x[holes[k]] = T(0);
  const Side<T>& side = group.sides[0][at];
  const int64_t start = group.starts[at], end = group.starts[at + 1];
  const double factor = all.factor(0, side), more = all.each(0, end - start);
  for (int64_t k = start; k < end; ++k) {
    double gradient = more;
    if (job.wanted[0][kLogSumExp]) gradient += factor * static_cast<double>(group.positives[k]);
    if (job.wanted[0][kLargest] && k - start == side.extremes[0]) gradient += by[0][kLargest];
    if (job.wanted[0][kSmallest] && k - start == side.extremes[1]) gradient += by[0][kSmallest];
    if (job.terms[0].present()) gradient *= static_cast<double>(group.positive_slopes[k]);
    x[group.places[k]] = static_cast<T>(gradient);
  }
}

// The losses of n rows from `row` on, whose similarities begin at x, and their gradients or their survey.
template <class T> void run_group(const Job<T>& job, int64_t row, int64_t n, T* x, int64_t stride, Group<T>& group) {
  group.start(x, stride);
  for (int64_t at = 0; at < n; ++at) look_at(job, row + at, at, group);
  evaluate(job, row, n, group);
  if (!job.share) return;
  for (int64_t at = 0; at < n; ++at) {
    if (job.survey) {
      survey(job, row + at, at, group);
    } else {
      spread_over(job, row + at, at, group);
      add_columns(job, row + at, at, group);
    }
  }
}

}  // namespace
}  // namespace losskit
