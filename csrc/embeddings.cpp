// The loop of the embeddings family: rows of two or three tensors -> statistics of each row -> a formula of them.
//
// 1. A formula never sees embeddings. Its operands are statistics of a row (the cosine of two embeddings, their
//    distance, ...) and the target; the family bits of the code say which. So a new loss of the family is a new
//    formula.
// 2. Statistics are doubles and the formula runs in double whatever the dtype: rows are few, and `dp - dn + margin`
//    keeps the digits that the statistics have.
// 3. A block of rows stays in cache: one pass makes the sums of the rows, the formula gives value and slopes, a second
//    pass writes the gradients by the embeddings, already scaled.
// 4. Roots and divisions of a row take longer than the sums of a short one, so they run over all rows of a block.
// 5. Each row of floats takes the usual way of embeddings.h unless that would cost digits.
//
// numbers: normalizer, factor, p, eps, parameters of the formula. Operands: two or three embeddings, then the target.
// Violation 1: a value outside the domain of the target.
#include "embeddings.h"

#include <memory>

#include "drive.h"

namespace losskit {
namespace {

constexpr int kEmbeddings = 3;
constexpr int64_t kRows = 256;             // of a block, at most
constexpr int64_t kBlockElements = 16384;  // of one embedding in a block, where a row is not longer than this

using wire::embeddings::Statistic;
using enum Statistic;  // what an operand of the formula is

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::embeddings::kFirstParameter;
  int embeddings = 0;
  int64_t width = 0;  // elements of a row
  int64_t rows = 0;   // of a block
  int64_t steps[kEmbeddings] = {};
  Statistic operand[kOperands] = {};  // of the formula
  bool cosine = false, pairs[kPairs] = {}, swap = false;
  bool usual = false;   // rows of floats may take the usual way,
  bool eights = false;  // eight at a time: rows shorter than that
  double p = 2.0, eps = 0.0;
  bool targeted = false;         // an operand is the target
  DType compute = DType::kByte;  // the operands' dtypes, promoted

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
};

// The numbers of a block's rows. Not initialised: small calls would pay for it.
struct Rows : Weights {
  double measured[kPairs][kRows];      // the distances of the pairs, or |x|^2, |y|^2 and xy
  double cosine[kRows], apart[kRows];  // apart: 1 - cosine
  int64_t careful[kRows];              // whether the row went the careful way, which fills the next two
  Distance distances[kPairs][kRows];
  Cosine cosines[kRows];
  double statistics[kOperands][kRows], slopes[kOperands][kRows], losses[kRows];
  double by_pair[kPairs][kRows], by_cosine[kRows];  // slopes by the statistics
  double shares[kRows];                             // of the slope by kNegativeDistance: what goes to kBC
  double by[kPairs][kRows];                         // coefficients of the gradients
  int64_t offsets[kRows];
  bool flat(int64_t i) const {
    return by_cosine[i] == 0.0 && by_pair[kAB][i] == 0.0 && by_pair[kAC][i] == 0.0 && by_pair[kBC][i] == 0.0;
  }
};

template <class T> struct Scratch : Rows {
  std::vector<T> read[kEmbeddings], written[kEmbeddings];
  std::vector<double> wide[kEmbeddings], wide_gradients[kEmbeddings];  // a careful row of floats
  const T* x[kEmbeddings][kRows];
  T* gradients[kEmbeddings];    // the first row's
  int64_t stride[kEmbeddings];  // 0: not wanted, one row to write into
  T values[kRows];
};

// --------------------------------------------------------------------------------------------------------
// The careful way of a row

LOSSKIT_CLONES void measure_row(const Job& job, const double* const* x, int64_t i, Rows& rows) {
  for (int k = 0; k < kPairs; ++k) {
    if (!job.pairs[k]) continue;
    rows.distances[k][i] = distance_of(x[kFirst[k]], x[kSecond[k]], job.width, job.p, job.eps);
    rows.measured[k][i] = rows.distances[k][i].value;
  }
  if (job.cosine) {
    const Cosine cosine = rows.cosines[i] = cosine_of(x[0], x[1], job.width);
    rows.cosine[i] = cosine.value;
    rows.apart[i] = cosine.value > 0 ? cosine.complement : 1.0 - cosine.value;
  }
}

LOSSKIT_CLONES void differentiate_row(const Job& job, const double* const* x, int64_t i, const Rows& rows,
                                      double* const* out) {
  if (job.cosine) return cosine_gradients(rows.cosines[i], rows.by_cosine[i], job.width, x[0], x[1], out[0], out[1]);
  for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, 0.0);
  for (int k = 0; k < kPairs; ++k)
    if (job.pairs[k] && rows.by_pair[k][i] != 0.0)
      add_distance_gradient(x[kFirst[k]], x[kSecond[k]], job.width, job.p, job.eps, rows.distances[k][i],
                            rows.by_pair[k][i], out[kFirst[k]], out[kSecond[k]]);
}

// A row of floats as doubles.
void widen_row(const Job& job, int64_t i, Scratch<float>& scratch, const double** x) {
  for (int k = 0; k < job.embeddings; ++k) {
    scratch.wide[k].resize(job.width);
    read_run(DType::kFloat, scratch.x[k][i], 1, job.width, scratch.wide[k].data());
    x[k] = scratch.wide[k].data();
  }
}

void measure_row(const Job& job, int64_t i, Scratch<float>& scratch) {
  const double* x[kEmbeddings];
  widen_row(job, i, scratch, x);
  measure_row(job, x, i, scratch);
}

void differentiate_row(const Job& job, int64_t i, Scratch<float>& scratch, float* const* out) {
  const double* x[kEmbeddings];
  double* wide[kEmbeddings];
  widen_row(job, i, scratch, x);
  for (int k = 0; k < job.embeddings; ++k) {
    scratch.wide_gradients[k].resize(job.width);
    wide[k] = scratch.wide_gradients[k].data();
  }
  differentiate_row(job, x, i, scratch, wide);
  for (int k = 0; k < job.embeddings; ++k) write_run(DType::kFloat, wide[k], job.width, out[k]);
}

// --------------------------------------------------------------------------------------------------------
// The statistics of a block

// Prefetches the memory of a row's gradients while its sums wait for their operands.
LOSSKIT_INLINE void prefetch_gradients(const Job& job, int64_t i, const Scratch<float>& scratch) {
  if (!job.options.gradients || job.width > kBlockElements) return;
  for (int k = 0; k < job.embeddings; ++k)
    for (int64_t e = 0; e < job.width; e += 16) __builtin_prefetch(scratch.gradients[k] + i * scratch.stride[k] + e, 1);
}

// Where rows i to i + 7 start; past the end the last row stands in.
LOSSKIT_INLINE void find_eight(const Job& job, int64_t i, int64_t n, const Scratch<float>& scratch, Eight* x) {
  for (int k = 0; k < job.embeddings; ++k)
    for (int j = 0; j < kLanes; ++j) x[k][j] = scratch.x[k][std::min(i + j, n - 1)];
}

template <class Terms>
LOSSKIT_INLINE void sum_rows(const Job& job, int64_t n, const Terms& terms, Scratch<float>& scratch) {
  double* const sums[] = {scratch.measured[0], scratch.measured[1], scratch.measured[2]};
  for (int64_t i = 0; job.eights && i < n; i += kLanes) {
    Eight x[kEmbeddings];
    find_eight(job, i, n, scratch, x);
    sum_eight(x, job.width, terms, sums, i);
  }
  for (int64_t i = 0; !job.eights && i < n; ++i) {
    prefetch_gradients(job, i, scratch);
    const float* const x[] = {scratch.x[0][i], scratch.x[1][i], scratch.x[job.embeddings - 1][i]};
    sum_row(x, job.width, terms, sums, i);
  }
}

template <bool squares> LOSSKIT_INLINE void measure_distances(const Job& job, int64_t n, Scratch<float>& scratch) {
  const float eps = static_cast<float>(job.eps);
  if (job.pairs[kBC])
    sum_rows(job, n, Differences<3, squares>{eps}, scratch);
  else if (job.pairs[kAC])
    sum_rows(job, n, Differences<2, squares>{eps}, scratch);
  else
    sum_rows(job, n, Differences<1, squares>{eps}, scratch);
  // The usual way needs sums far from the ends of the range, and so large that the rounding of eps does not show.
  const double floor = static_cast<double>(job.width) * (squares ? 64.0 * job.eps * job.eps : 8.0 * std::fabs(job.eps));
  const double least = std::fmax(floor, 1e-25);
  for (int k = 0; k < kPairs; ++k) {
    if (!job.pairs[k]) continue;
    double* const value = scratch.measured[k];
    for (int64_t i = 0; i < n; ++i) {
      const double sum = value[i];
      scratch.careful[i] |= !((sum > least) & (sum < 1e35));
      value[i] = squares ? sqrt(sum) : sum;
    }
  }
}

LOSSKIT_INLINE void measure_cosines(const Job& job, int64_t n, Scratch<float>& scratch) {
  sum_rows(job, n, Products{}, scratch);
  for (int64_t i = 0; i < n; ++i) {
    const double squares = scratch.measured[0][i] * scratch.measured[1][i];
    const double quotient = scratch.measured[2][i] / sqrt(where(squares == 0.0, 1.0, squares));  // 0 of a zero vector
    const double cosine = clamp(quotient, -1.0, 1.0);
    scratch.cosine[i] = cosine;
    scratch.apart[i] = 1.0 - cosine;
    scratch.careful[i] = scratch.apart[i] < 1e-6;
  }
}

LOSSKIT_CLONES void measure_usual(const Job& job, Scratch<float>& scratch, int64_t n) {
  if (job.cosine)
    measure_cosines(job, n, scratch);
  else if (job.p == 2.0)
    measure_distances<true>(job, n, scratch);
  else
    measure_distances<false>(job, n, scratch);
}

void measure(const Job& job, Scratch<float>& scratch, int64_t n) {
  std::fill(scratch.careful, scratch.careful + n, !job.usual);
  if (job.usual) measure_usual(job, scratch, n);
  for (int64_t i = 0; i < n; ++i)
    if (scratch.careful[i]) measure_row(job, i, scratch);
}

void measure(const Job& job, Scratch<double>& scratch, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double* const x[] = {scratch.x[0][i], scratch.x[1][i], scratch.x[job.embeddings - 1][i]};
    measure_row(job, x, i, scratch);
  }
}

// --------------------------------------------------------------------------------------------------------
// The gradients of a block

// Whether arithmetic in float neither overflows nor underflows.
LOSSKIT_INLINE bool ordinary(double coefficient) {
  return std::fabs(coefficient) > 1e-25 && std::fabs(coefficient) < 1e25;
}

LOSSKIT_INLINE void distance_gradients(const Job& job, int64_t i, Scratch<float>& scratch, const float* const* x,
                                       float* const* out) {
  bool usual = !scratch.careful[i];
  float by[kPairs];
  for (int k = 0; k < kPairs; ++k) {
    usual &= scratch.by_pair[k][i] == 0.0 || ordinary(scratch.by[k][i]);
    by[k] = static_cast<float>(scratch.by[k][i]);
  }
  if (!usual) {
    for (int k = 0; k < kPairs; ++k)
      if (!scratch.careful[i]) scratch.distances[k][i].value = scratch.measured[k][i];
    differentiate_row(job, i, scratch, out);
  } else if (job.p == 2.0) {
    combine<true>(job.pairs[kAC], x, job.width, static_cast<float>(job.eps), by, out);
  } else {
    combine<false>(job.pairs[kAC], x, job.width, static_cast<float>(job.eps), by, out);
  }
}

LOSSKIT_INLINE void cosine_gradients(const Job& job, int64_t i, const Scratch<float>& scratch, const float* const* x,
                                     float* const* out) {
  const double c = scratch.cosine[i], both = scratch.by[0][i], sx = scratch.by[1][i], sy = scratch.by[2][i];
  if (std::fabs(c) < 0.6 && std::fabs(scratch.by_cosine[i]) > 1e-20 && ordinary(sx) && ordinary(sy))
    turn<float>(x, job.width, static_cast<float>(both), static_cast<float>(c * sx), static_cast<float>(c * sy), out);
  else
    turn<double>(x, job.width, both, c * sx, c * sy, out);
}

LOSSKIT_INLINE void differentiate_eights(const Job& job, Scratch<float>& scratch, int64_t n) {
  const auto place = [&](int k, int64_t i) LOSSKIT_LAMBDA { return scratch.gradients[k] + i * scratch.stride[k]; };
  float spare[kLanes];  // for rows past the end
  for (int64_t i = 0; i < n; i += kLanes) {
    Eight x[kEmbeddings];
    float* out[kEmbeddings][kLanes];
    find_eight(job, i, n, scratch, x);
    for (int k = 0; k < job.embeddings; ++k)
      for (int j = 0; j < kLanes; ++j) out[k][j] = i + j < n ? place(k, i + j) : spare;
    const Lanes by[kPairs] = {eight(scratch.by[0] + i), eight(scratch.by[1] + i), eight(scratch.by[2] + i)};
    if (job.cosine)
      turn_eight(x, job.width, eight(scratch.by_cosine + i), eight(scratch.cosine + i), by, out);
    else if (job.pairs[kAC])
      combine_eight<true>(x, job.width, job.p == 2.0, job.eps, by, out);
    else
      combine_eight<false>(x, job.width, job.p == 2.0, job.eps, by, out);
  }
  for (int64_t i = 0; i < n && !job.cosine; ++i) {
    if (!scratch.careful[i] || scratch.flat(i)) continue;
    float* const out[] = {place(0, i), place(1, i), place(job.embeddings - 1, i)};
    differentiate_row(job, i, scratch, out);
  }
}

LOSSKIT_INLINE void find_coefficients(const Job& job, Scratch<float>& scratch, int64_t n) {
  for (int64_t i = 0; job.cosine && i < n; ++i) {
    const double slope = scratch.by_cosine[i], xx = scratch.measured[0][i], yy = scratch.measured[1][i];
    const bool zero = xx * yy == 0.0;  // then the cosine is 0, whatever the other is
    scratch.by[0][i] = slope * where(zero, 0.0, 1.0 / sqrt(xx * yy));
    scratch.by[1][i] = slope * where(zero, 0.0, 1.0 / xx);
    scratch.by[2][i] = slope * where(zero, 0.0, 1.0 / yy);
  }
  for (int k = 0; k < kPairs && !job.cosine; ++k)
    for (int64_t i = 0; i < n; ++i) {
      const double slope = scratch.by_pair[k][i];
      scratch.by[k][i] = where(slope == 0.0, 0.0, job.p == 2.0 ? slope / scratch.measured[k][i] : slope);
    }
}

template <class T> LOSSKIT_INLINE void differentiate_any(const Job& job, Scratch<T>& scratch, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T* x[kEmbeddings];
    T* out[kEmbeddings];
    for (int k = 0; k < job.embeddings; ++k) {
      x[k] = scratch.x[k][i];
      out[k] = scratch.gradients[k] + i * scratch.stride[k];
    }
    if (scratch.flat(i)) {
      for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, T(0));  // whatever x is
    } else if constexpr (sizeof(T) == 8) {
      differentiate_row(job, x, i, scratch, out);
    } else if (job.cosine) {
      cosine_gradients(job, i, scratch, x, out);
    } else {
      distance_gradients(job, i, scratch, x, out);
    }
  }
}
LOSSKIT_CLONES void differentiate(const Job& job, Scratch<float>& scratch, int64_t n) {
  if (job.usual) find_coefficients(job, scratch, n);
  if (job.eights)
    differentiate_eights(job, scratch, n);
  else
    differentiate_any(job, scratch, n);
}
void differentiate(const Job& job, Scratch<double>& scratch, int64_t n) { differentiate_any(job, scratch, n); }

// --------------------------------------------------------------------------------------------------------
// Blocks

// Where rows [begin, begin + n) of a source start, in elements.
void locate(const Walk& walk, const Source& source, int64_t begin, int64_t n, int64_t* offsets) {
  std::array<int64_t, kDims> index{};
  int64_t rest = begin, offset = 0;
  for (int d = walk.dims - 1; d >= 0; --d) {
    index[d] = rest % walk.sizes[d];
    rest /= walk.sizes[d];
    offset += index[d] * source.strides[d];
  }
  for (int64_t i = 0; i < n; ++i) {
    offsets[i] = offset;
    for (int d = walk.dims - 1; d >= 0; --d) {
      offset += source.strides[d];
      if (++index[d] < walk.sizes[d]) break;
      offset -= index[d] * source.strides[d];
      index[d] = 0;
    }
  }
}

// Rows as contiguous T: in place if they are, else copied.
template <class T> void read_rows(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  for (int k = 0; k < job.embeddings; ++k) {
    const Source& source = job.sources[k];
    locate(job.walk, source, begin, n, scratch.offsets);
    const bool in_place = source.dtype == own && job.steps[k] == 1;
    if (!in_place) scratch.read[k].resize(n * job.width);
    for (int64_t i = 0; i < n; ++i) {
      const char* data = source.data + scratch.offsets[i] * size_of(source.dtype);
      if (in_place) {
        scratch.x[k][i] = reinterpret_cast<const T*>(data);
      } else {
        T* row = scratch.read[k].data() + i * job.width;
        read_run(source.dtype, data, job.steps[k], job.width, row);
        scratch.x[k][i] = row;
      }
    }
  }
}

// The memory of a block's gradients: their own if they are T, else buffers.
template <class T> void place_gradients(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  for (int k = 0; k < job.embeddings; ++k) {
    const bool in_place = job.gradients[k] && job.gradient_dtypes[k] == own;
    scratch.written[k].resize(in_place ? 0 : job.gradients[k] ? n * job.width : job.width);
    scratch.gradients[k] =
        in_place ? reinterpret_cast<T*>(job.gradients[k]) + begin * job.width : scratch.written[k].data();
    scratch.stride[k] = job.gradients[k] ? job.width : 0;
  }
}

// If both distances overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
void compare_infinite(const Job& job, int64_t n, Rows& rows, double* positive, double* negative) {
  for (int64_t i = 0; i < n; ++i) {
    if (positive[i] != infinity<double> || negative[i] != infinity<double>) continue;
    const double ab = rows.distances[kAB][i].magnitude();
    double other = rows.distances[kAC][i].magnitude();
    if (job.swap) other = minimum(other, rows.distances[kBC][i].magnitude());
    if (ab <= other && other < infinity<double>) positive[i] = 0.0;
    if (other <= ab && ab < infinity<double>) negative[i] = 0.0;
  }
}

// The operands of the formula, from the statistics of rows [begin, begin + n).
void gather(const Job& job, int64_t begin, int64_t n, Rows& rows, const double** operands) {
  double* own[kOperands];
  double *positive = nullptr, *negative = nullptr;
  for (int k = 0; k < kOperands; ++k) {
    own[k] = rows.statistics[k];
    operands[k] = own[k];
    switch (job.operand[k]) {
      case kCosine:
        operands[k] = rows.cosine;
        break;
      case kCosineDistance:
        operands[k] = rows.apart;
        break;
      case kPositiveDistance:
        positive = std::copy(rows.measured[kAB], rows.measured[kAB] + n, own[k]) - n;
        break;
      case kNegativeDistance:
        negative = std::copy(rows.measured[kAC], rows.measured[kAC] + n, own[k]) - n;
        for (int64_t i = 0; i < n && job.swap; ++i) {
          const double other = rows.measured[kBC][i];
          rows.shares[i] = own[k][i] < other ? 0.0 : own[k][i] > other ? 1.0 : 0.5;
          own[k][i] = minimum(own[k][i], other);
        }
        break;
      case kTarget:
        operands[k] = fetch(job.walk, job.sources[job.embeddings], begin, n, own[k]);
        break;
      case kAbsent:
        break;
    }
  }
  if (positive && negative) compare_infinite(job, n, rows, positive, negative);
}

// The slopes by cosine and distances of each row, weighted and scaled.
void scatter(const Job& job, int64_t n, const double* factor, const float* mask, Rows& rows) {
  for (double* slopes : {rows.by_pair[kAB], rows.by_pair[kAC], rows.by_pair[kBC], rows.by_cosine})
    std::fill(slopes, slopes + n, 0.0);
  for (int k = 0; k < kOperands; ++k) {
    if (job.operand[k] == kAbsent || job.operand[k] == kTarget) continue;
    double* const slopes = rows.slopes[k];
    weigh(slopes, factor, mask, job.scale, n, slopes);
    for (int64_t i = 0; i < n; ++i) {
      if (job.operand[k] == kCosine) rows.by_cosine[i] += slopes[i];
      if (job.operand[k] == kCosineDistance) rows.by_cosine[i] -= slopes[i];
      if (job.operand[k] == kPositiveDistance) rows.by_pair[kAB][i] = slopes[i];
      if (job.operand[k] == kNegativeDistance) {
        rows.by_pair[kAC][i] = job.swap ? slopes[i] * (1.0 - rows.shares[i]) : slopes[i];
        rows.by_pair[kBC][i] = job.swap ? slopes[i] * rows.shares[i] : 0.0;
      }
    }
  }
}

// Report a block's targets that are outside their domain.
void report_targets(Job& job, const double* const* operands, const float* mask, int64_t begin, int64_t n) {
  for (int k = 0; k < kOperands; ++k)
    for (int64_t i = 0; i < n && job.operand[k] == kTarget; ++i) {
      if (!outside(job.kernel->domains[k], operands[k][i]) || (mask && mask[i] == 0.0f)) continue;
      const int64_t place = place_of(job.walk, begin + i);
      job.report({0, place, 1, place, operands[k][i]});
    }
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const int64_t begin = block * job.rows, n = std::min(job.rows, job.walk.numel - begin);
  const Options& options = job.options;
  read_rows(job, begin, n, scratch);
  const float* mask = mask_of(job, begin, n, scratch);
  const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, n, scratch);
  if (options.gradients) place_gradients(job, begin, n, scratch);
  measure(job, scratch, n);

  const double* operands[kOperands];
  gather(job, begin, n, scratch, operands);

  bool violated = false;
  for (int k = 0; k < kOperands && options.checks != kOff; ++k) {
    if (job.operand[k] != kTarget) continue;
    for (int64_t i = 0; i < n; ++i)
      violated |= (!mask || mask[i] != 0.0f) && outside(job.kernel->domains[k], operands[k][i]);
  }
  if (violated && options.checks == kRaise) return report_targets(job, operands, mask, begin, n);

  double* slopes[kOperands];
  for (int k = 0; k < kOperands; ++k) slopes[k] = scratch.slopes[k];
  job.kernel->f64[options.gradients ? kAll : kNone](n, operands, job.parameters, 1.0, scratch.losses, slopes);
  if (violated) {  // checks("nan"): the offending rows poison their own results
    for (int64_t i = 0; i < n; ++i)
      for (int k = 0; k < kOperands; ++k)
        if (job.operand[k] == kTarget && outside(job.kernel->domains[k], operands[k][i])) {
          scratch.losses[i] = std::numeric_limits<double>::quiet_NaN();
          for (int s = 0; s < kOperands; ++s) slopes[s][i] = scratch.losses[i];
        }
  }
  if (!job.sources[kUpstream].present()) {
    T* const values = scratch.values;
    for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(scratch.losses[i]);
    if (factor || mask) weigh(values, factor, mask, 1.0, n, values);
    if (options.reduction != kElements)
      job.sums[block] = sum_block(values, n);
    else
      write_run(job.result, values, n, job.values + begin * size_of(job.result));
  }
  if (!options.gradients) return;

  scatter(job, n, factor, mask, scratch);
  differentiate(job, scratch, n);
  for (int k = 0; k < job.embeddings; ++k) {
    if (!job.gradients[k] || job.gradient_dtypes[k] == own) continue;
    write_run(job.gradient_dtypes[k], scratch.gradients[k], n * job.width,
              job.gradients[k] + begin * job.width * size_of(job.gradient_dtypes[k]));
  }
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  const auto scratch = std::make_unique_for_overwrite<Scratch<T>>();
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job*>(context), block, *scratch);
}

// What the formula takes. False if the kernel takes something else.
bool read_statistics(Job& job) {
  int operands = 0;
  for (int k = 0; k < kOperands; ++k) {
    job.operand[k] = wire::embeddings::statistics(job.options.family, k);
    operands += job.operand[k] != kAbsent;
    job.cosine |= job.operand[k] == kCosine || job.operand[k] == kCosineDistance;
    job.pairs[kAB] |= job.operand[k] == kPositiveDistance;
    job.pairs[kAC] |= job.operand[k] == kNegativeDistance;
    job.targeted |= job.operand[k] == kTarget;
  }
  job.embeddings = job.pairs[kAC] ? 3 : 2;
  job.swap = job.pairs[kBC] = job.pairs[kAC] && wire::embeddings::swap(job.options.family);
  return operands == job.kernel->operands;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.a;
  const int dims = static_cast<int>(a.dim()) - 1;
  if (dims < 0 || dims > kDims || kernel->abi != kAbi || !in.b || !read_statistics(*this)) return false;
  p = in.numbers[wire::embeddings::kP], eps = in.numbers[wire::embeddings::kEps];
  usual = cosine || p == 2.0 || p == 1.0;
  const auto sizes = a.sizes();
  start(walk, dims, sizes.data(), a.strides().data());
  width = sizes[dims];
  eights = usual && width < kLanes;

  const Tensor* tensors[] = {&a, &*in.b, in.c ? &*in.c : nullptr, in.d ? &*in.d : nullptr};
  for (int k = 0; k < kOperands; ++k)
    if ((tensors[k] != nullptr) != (k < embeddings + targeted)) return false;
  for (int k = 0; k < embeddings; ++k) {
    Source& source = sources[k];
    const Tensor& tensor = *tensors[k];
    source.dtype = gradient_dtypes[k] = dtype_of(tensor);
    const auto own_sizes = tensor.sizes(), own_strides = tensor.strides();
    if (!floating(source.dtype) || !tensor.is_cpu() || own_sizes.size() != sizes.size() ||
        !std::equal(sizes.begin(), sizes.end(), own_sizes.begin()))
      return false;
    for (int i = 0; i < dims; ++i) source.strides[i] = own_strides[walk.order[i]];
    steps[k] = own_strides[dims];
    source.data = static_cast<const char*>(tensor.data_ptr());
    if (!source.data) source.data = reinterpret_cast<const char*>(this);  // empty: present, never read
    compute = promote(compute, source.dtype);
  }
  if (targeted) {
    if (!attach(walk, *tensors[embeddings], false, sources[embeddings])) return false;
    compute = promote(compute, sources[embeddings].dtype);
  }
  result = compute;
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const int dims = walk.tensor_dims;
  const auto rows = dense_strides(walk);
  std::array<int64_t, kDims + 1> strides{};
  for (int i = 0; i < dims; ++i) strides[i] = rows[i] * std::max<int64_t>(width, 1);
  strides[dims] = 1;
  for (int k = 0; k < embeddings; ++k) allocate_gradient(*this, out, k, dims + 1, in.a.sizes().data(), strides.data());
}

Work Job::divide() {
  rows = std::clamp<int64_t>(kBlockElements / std::max<int64_t>(width, 1), 1, kRows);
  return {(walk.numel + rows - 1) / rows, rows * width * embeddings,
          compute == DType::kDouble ? run_blocks<double> : run_blocks<float>};
}

}  // namespace

Result embeddings(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(embeddings)
