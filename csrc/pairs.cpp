// A block of rows of similarities of the pairs family: their losses, and the gradient in place of the similarities.
//
// 1. The columns come in an order in which those of one label follow each other, so the positives of a row are a piece
//    of this order, from `first` to `last`. They are taken out of the row, which then is negatives alone: the passes
//    over it know nothing of labels. Where rows are columns too, row r of the block is column `begin` + r, no pair.
// 2. What is taken out leaves a number that changes nothing: -inf for exponentials and maxima, inf for minima, 0 for
//    sums. Before a term is applied it is 0, so that no infinite number reaches a formula.
// 3. Rows come in groups, so that the formula of the aggregates, in double, sees some at a time, and so that their
//    numbers stay in cache until its derivatives are spread. A row is computed alike whatever the threads.
// 4. Sums of exponentials and terms are in double, as is the gradient of the positives, which cancels.
// 5. Where columns look for their rows, too, a first run, of the turned matrix, surveys what the gradient by a column's
//    similarities is made of: pivot, factor of exponentials, what is added, and that of its positive. A second run, of
//    rows, adds it to its own. So both directions take four matrix products, not six.
#include "pairs.h"

#include <torch/csrc/stable/library.h>

namespace losskit {
namespace {

constexpr int64_t kGroup = 32768;  // numbers of a group: 128 KB of floats
enum { kPivot, kFactor, kMore, kOfPositive, kSurveyed };

template <class T> struct Block {
  T* x;
  int64_t rows, columns, begin;
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

  bool spreads() const { return share && !survey; }
  bool wants(int side) const {
    for (bool one : wanted[side])
      if (one) return true;
    return false;
  }
};

// The positives of the rows of a group, and the slopes of the negatives' terms.
template <class T> struct Buffers {
  std::vector<T> positives, positive_slopes, negative_slopes;
  std::vector<T> of_columns;  // what columns add to the gradients of the rows
  std::vector<int64_t> places, starts;
  std::vector<Side<T>> sides[2];
  std::vector<double> known, by, losses;
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

// The aggregates of n terms, of which those at `holes` do not count; log-sum-exp leaves exponentials in their place.
template <class T>
void aggregate(T* x, int64_t n, const int64_t* holes, int64_t count_holes, const bool* wanted, Side<T>& side) {
  const auto fill = [&](T with) {
    for (int64_t k = 0; k < count_holes; ++k) x[holes[k]] = with;
  };
  side.count = n - count_holes;
  const double least = -std::numeric_limits<double>::infinity();
  double* known = side.known;
  known[kTotal] = known[kAverage] = 0.0;
  known[kLogSumExp] = known[kLargest] = least;
  known[kSmallest] = -least;
  if (side.count == 0) {
    if (wanted[kLogSumExp]) std::fill(x, x + n, T(0));
    return;
  }
  if (wanted[kTotal] || wanted[kAverage]) {
    fill(T(0));
    known[kTotal] = sum_of(x, n);
    known[kAverage] = known[kTotal] / static_cast<double>(side.count);
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
  T pivot = largest(x, n);
  if (pivot == -infinity<T>) pivot = T(0);
  side.pivot = static_cast<double>(pivot);
  powers(x, n, pivot);
  side.powers = sum_of(x, n);
  known[kLogSumExp] = side.powers == 0.0 ? least : static_cast<double>(pivot) + std::log(side.powers);
}

// The places of a row that are no negatives: positives, and the row itself.
template <class T> const int64_t* holes_of(const Block<T>& job, int64_t row, int64_t& count) {
  count = job.last[row] - job.first[row];
  return job.order + job.first[row];
}

// Takes the positives of a row out of it, and finds what is known of both sides.
template <class T> void look_at(const Block<T>& job, int64_t row, int64_t at, Buffers<T>& buffers) {
  T* x = job.x + row * job.columns;
  const int64_t own = job.begin < 0 ? -1 : job.begin + row;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  const size_t start = buffers.positives.size();
  for (int64_t k = 0; k < count; ++k) {
    if (holes[k] == own) continue;
    buffers.positives.push_back(x[holes[k]]);
    buffers.places.push_back(holes[k]);
  }
  const int64_t positives = static_cast<int64_t>(buffers.positives.size() - start);
  buffers.starts.push_back(static_cast<int64_t>(buffers.positives.size()));
  buffers.positive_slopes.resize(buffers.positives.size());
  T* taken = buffers.positives.data() + start;
  affine(taken, positives, job.scale, job.bias);
  if (job.terms[0].present())
    job.terms[0].apply(taken, positives, job.share ? buffers.positive_slopes.data() + start : nullptr);
  aggregate(taken, positives, nullptr, 0, job.wanted[0], buffers.sides[0][at]);
  if (!job.wants(1)) return;
  for (int64_t k = 0; k < count; ++k) x[holes[k]] = T(0);
  affine(x, job.columns, job.scale, job.bias);
  if (job.terms[1].present())
    job.terms[1].apply(x, job.columns, job.share ? buffers.negative_slopes.data() + at * job.columns : nullptr);
  if (job.turned)
    shares_of(x, job.columns, job.pivots.data(), job.factors.data(), job.adds.data(),
              buffers.of_columns.data() + at * job.columns);
  aggregate(x, job.columns, holes, count, job.wanted[1], buffers.sides[1][at]);
}

// The formula of the rows from `from` on, n of them, and its derivatives.
template <class T> void evaluate(const Block<T>& job, int64_t from, int64_t n, Buffers<T>& buffers) {
  const size_t operands = job.statistics.size();
  const double* known[kOperands] = {};
  double* by[kOperands] = {};
  for (size_t k = 0; k < operands; ++k) {
    double* column = buffers.known.data() + k * job.group;
    const int64_t side = job.statistics[k] / kAggregates, which = job.statistics[k] % kAggregates;
    for (int64_t i = 0; i < n; ++i) column[i] = buffers.sides[side][i].known[which];
    known[k] = column;
    by[k] = buffers.by.data() + k * job.group;
  }
  const int all = (1 << job.formula->operands) - 1;
  const int variant = !job.share ? kNone : all & ~job.formula->predictions ? kAll : kPredictions;
  job.formula->f64[variant](n, known, job.parameters, 1.0, job.values + from, by);
}

// The derivatives by the aggregates of a row, times its share.
template <class T> struct Slopes {
  double by[2][kAggregates] = {};
  Slopes(const Block<T>& job, double share, int64_t at, const Buffers<T>& buffers) {
    for (size_t k = 0; k < job.statistics.size(); ++k)
      by[job.statistics[k] / kAggregates][job.statistics[k] % kAggregates] = share * buffers.by[k * job.group + at];
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
template <class T> void survey(const Block<T>& job, int64_t row, int64_t at, const Buffers<T>& buffers) {
  const Slopes<T> slopes(job, job.share[row], at, buffers);
  const Side<T>&negatives = buffers.sides[1][at], &positives = buffers.sides[0][at];
  double* out = job.survey + row * kSurveyed;
  out[kPivot] = negatives.pivot;
  out[kFactor] = slopes.factor(1, negatives);
  out[kMore] = slopes.each(1, negatives.count);
  out[kOfPositive] = slopes.factor(0, positives) * positives.powers + slopes.each(0, positives.count);
}

// Adds what the columns say of their similarities with a row.
template <class T> void add_columns(const Block<T>& job, int64_t row, int64_t at, Buffers<T>& buffers) {
  if (!job.turned) return;
  T* x = job.x + row * job.columns;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  T* more = buffers.of_columns.data() + at * job.columns;
  for (int64_t k = 0; k < count; ++k) more[holes[k]] = static_cast<T>(job.turned[holes[k] * kSurveyed + kOfPositive]);
  add_to(x, job.columns, more);
}

// The gradient of a row in the place of its similarities.
template <class T> void spread_over(const Block<T>& job, int64_t row, int64_t at, Buffers<T>& buffers) {
  T* x = job.x + row * job.columns;
  const double share = job.share[row];
  if (share == 0.0) {
    std::fill(x, x + job.columns, T(0));
    return;
  }
  const Slopes<T> all(job, share, at, buffers);
  const auto& by = all.by;
  int64_t count;
  const int64_t* holes = holes_of(job, row, count);
  if (job.wants(1)) {
    const Side<T>& side = buffers.sides[1][at];
    const T* slopes = buffers.negative_slopes.data() + at * job.columns;
    const bool exponentials = job.wanted[1][kLogSumExp], term = job.terms[1].present();
    const T factor = static_cast<T>(all.factor(1, side)), more = static_cast<T>(all.each(1, side.count));
    if (exponentials && !term && more == T(0))
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
  const Side<T>& side = buffers.sides[0][at];
  const int64_t start = buffers.starts[at], end = buffers.starts[at + 1];
  const double factor = all.factor(0, side), more = all.each(0, end - start);
  for (int64_t k = start; k < end; ++k) {
    double gradient = more;
    if (job.wanted[0][kLogSumExp]) gradient += factor * static_cast<double>(buffers.positives[k]);
    if (job.wanted[0][kLargest] && k - start == side.extremes[0]) gradient += by[0][kLargest];
    if (job.wanted[0][kSmallest] && k - start == side.extremes[1]) gradient += by[0][kSmallest];
    if (job.terms[0].present()) gradient *= static_cast<double>(buffers.positive_slopes[k]);
    x[buffers.places[k]] = static_cast<T>(gradient);
  }
}

template <class T> void run_groups(int64_t begin, int64_t end, void* context) {
  const Block<T>& job = *static_cast<const Block<T>*>(context);
  Buffers<T> buffers;
  for (auto& sides : buffers.sides) sides.resize(job.group);
  if (job.spreads() && job.terms[1].present()) buffers.negative_slopes.resize(job.group * job.columns);
  if (job.turned) buffers.of_columns.resize(job.group * job.columns);
  buffers.known.resize(job.statistics.size() * job.group);
  buffers.by.resize(job.statistics.size() * job.group);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = i * job.group, n = std::min(job.group, job.rows - from);
    buffers.positives.clear();
    buffers.places.clear();
    buffers.starts.assign(1, 0);
    for (auto& sides : buffers.sides) std::fill(sides.begin(), sides.end(), Side<T>());
    for (int64_t at = 0; at < n; ++at) look_at(job, from + at, at, buffers);
    evaluate(job, from, n, buffers);
    if (!job.share) continue;
    for (int64_t at = 0; at < n; ++at) {
      if (job.survey) {
        survey(job, from + at, at, buffers);
      } else {
        spread_over(job, from + at, at, buffers);
        add_columns(job, from + at, at, buffers);
      }
    }
  }
}

template <class T> const T* data_of(const Tensor& tensor) { return static_cast<const T*>(tensor.data_ptr()); }

struct Given {
  int64_t formula, positive, negative, begin;
  const std::vector<int64_t>& statistics;
  const Tensor &similarities, &order, &first, &last, &values;
  const std::optional<Tensor>&share, &survey, &turned;
  const std::vector<double>&numbers, &of_positive, &of_negative;
  double scale, bias;
};

template <class T> void run_block(const Given& given) {
  const auto sizes = given.similarities.sizes();
  Block<T> job{static_cast<T*>(given.similarities.data_ptr()),
               sizes[0],
               sizes[1],
               given.begin,
               data_of<int64_t>(given.order),
               data_of<int64_t>(given.first),
               data_of<int64_t>(given.last),
               given.share ? data_of<double>(*given.share) : nullptr,
               static_cast<double*>(given.values.data_ptr()),
               given.survey ? static_cast<double*>(given.survey->data_ptr()) : nullptr,
               static_cast<T>(given.scale),
               static_cast<T>(given.bias),
               reinterpret_cast<const Kernel*>(given.formula),
               {},
               given.statistics,
               {},
               {Term<T>(given.positive, given.of_positive), Term<T>(given.negative, given.of_negative)}};
  for (size_t i = 0; i < given.numbers.size() && i < kMaxParameters; ++i) job.parameters[i] = given.numbers[i];
  for (const int64_t code : job.statistics) job.wanted[code / kAggregates][code % kAggregates] = true;
  if (given.turned) {
    job.turned = data_of<double>(*given.turned);
    for (int64_t j = 0; j < job.columns; ++j) {
      const double* own = job.turned + j * kSurveyed;
      job.pivots.push_back(static_cast<T>(own[kPivot]));
      job.factors.push_back(static_cast<T>(own[kFactor]));
      job.adds.push_back(static_cast<T>(own[kMore]));
    }
  }
  job.group = std::clamp<int64_t>(kGroup / std::max<int64_t>(1, job.columns), 1, 64);
  const int64_t groups = (job.rows + job.group - 1) / job.group;
  run_parallel(groups, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, job.group * job.columns)), run_groups<T>,
               &job);
}

}  // namespace

void pairs_block(int64_t formula, int64_t positive, int64_t negative, std::vector<int64_t> statistics,
                 Tensor similarities, Tensor order, Tensor first, Tensor last, int64_t begin,
                 std::optional<Tensor> share, Tensor values, std::optional<Tensor> survey, std::optional<Tensor> turned,
                 std::vector<double> numbers, std::vector<double> of_positive, std::vector<double> of_negative,
                 double scale, double bias) {
  const Given given{formula, positive, negative, begin,  statistics, similarities, order,       first, last,
                    values,  share,    survey,   turned, numbers,    of_positive,  of_negative, scale, bias};
  if (dtype_of(similarities) == DType::kDouble)
    run_block<double>(given);
  else
    run_block<float>(given);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "pairs_block(int formula, int positive, int negative, int[] statistics, Tensor(a!) similarities, Tensor order, "
      "Tensor first, Tensor last, int begin, Tensor? share, Tensor(b!) values, Tensor(c!)? survey, Tensor? turned, "
      "float[] numbers, float[] of_positive, float[] of_negative, float scale, float bias) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("pairs_block", TORCH_BOX(&losskit::pairs_block)); }
