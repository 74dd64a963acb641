// What the files of the two-rows family share: a call, the numbers of a block, and passes over rows in L1
// (two_rows.cpp explains them).
#pragma once

#include "drive.h"
#include "vectors.h"

namespace losskit {
namespace {

using wire::two_rows::Statistic;

enum { kStudent, kTeacher, kGradient, kSlots };  // positions of the sources: the gradient lies behind the operands
constexpr int64_t kAhead = 4096;                 // classes of the next row, and of a gradient, that are fetched ahead
template <class T> constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::two_rows::kFirstParameter;
  int64_t classes = 1, batch = 1;  // rows of a block
  int64_t class_steps[kSlots] = {};
  bool overwrite = false;              // the gradient is written over the student's scores
  double inverse = 1.0, factor = 1.0;  // of the temperature; what multiplies the loss
  int places[3] = {-1, -1, -1};        // which operand of the formula each statistic is: teacher, student, log ratio

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  bool odd() const;
};

enum State : uint8_t { kCounts, kMasked, kEndless };  // kEndless: the student has infinite scores, and does not learn

// What a row's numbers are made from.
template <class T> struct From {
  T largest, most, inverse;
  T at_top;  // the teacher's distance at the student's largest class
};

// What is known of a row.
template <class T> struct Row {
  State state;
  const T *z, *u;         // the student's and the teacher's scores
  const char* out;        // where the gradient will be
  T largest, most;        // of them
  int64_t top, heaviest;  // where these are
  From<T> from;
  bool near;                  // all differences are less than 1
  double others, of_teacher;  // sums of the exponentials without the largest one, which is 1
  double weight;
};

// Room for the numbers of a block: of some short rows, or of a long one. Vectors that begin on lines of the cache:
// those that lie across two of them take twice the time to write.
template <class T> class Room {
  std::vector<T> memory;

 public:
  T* data = nullptr;
  void make(int64_t n) {
    constexpr int64_t line = 64 / sizeof(T);
    memory.resize(n + line);
    data = memory.data() + (line - reinterpret_cast<uintptr_t>(memory.data()) / sizeof(T) % line) % line;
  }
};
template <class T> struct Scratch : Weights {
  Room<T> z, u, p, q, d, h, out;
  std::vector<Row<T>> rows;
  alignas(64) T values[kBlock], spare[kBlock];
  explicit Scratch(const Job& job) : rows(job.batch) {
    for (Room<T>* room : {&z, &u, &p, &q, &d, &h}) room->make(job.batch * job.classes);
    if (job.gradients[0]) out.make(job.classes);
  }
};

// --------------------------------------------------------------------------------------------------------
// Passes over the classes of a row

template <class T> LOSSKIT_INLINE int64_t largest_of(const T* x, int64_t n) {
  if (n >= kLanes) {
    const T m = maximum_of(x, n);
    return m > -infinity<T> ? first_of(x, m, n) : 0;
  }
  int64_t at = 0;
  for (int64_t i = 1; i < n; ++i)
    if (x[i] > x[at] || x[at] != x[at]) at = i;
  return at;
}

template <class T> LOSSKIT_INLINE double total(const T* x, int64_t n) {
  if (n >= kLanes) {
    double sum = 0.0;
    for (int64_t i = 0, length; i < n; i += length) {
      length = chunk_of(n - i);
      sum += chunk_sum<T>(length, [&](int64_t k, Vector<T>& v) __attribute__((always_inline)) { load(x + i + k, v); });
    }
    return sum;
  }
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

// A row with infinite scores as what it tends to: the infinite ones share the probability.
template <class T> void to_limit(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] == infinity<T> ? T(0) : x[i] == x[i] ? -infinity<T> : x[i];
}

// e^x of a number of at most 0. ULP 1.0/1.0. Two factors, not an addition to the exponent: NaN stays NaN without a
// choice, and a subnormal probability times its logarithm, or a weight, is a normal gradient.
template <class T> LOSSKIT_INLINE T exp_below(T x) {
  using F = Format<T>;
  constexpr Bits<T> shift = (F::bias + 1) / 2;
  constexpr T magic = T(3 * (Bits<T>(1) << (F::mantissa - 1)) + F::bias + shift);
  constexpr T back = from_bits<T>((F::bias - shift) << F::mantissa);
  const T t = x * log2_e<T> + magic;
  const T n = t - magic;
  const T r = x - n * F::ln2_hi;
  T y;
  if constexpr (sizeof(T) == 4) {
    const T q = r - n * F::ln2_lo;
    y = 1 + (q + exp_tail(q));
  } else {
    y = one_plus(Reduced<T>{0, r, exp_tail(r - n * F::ln2_lo) - n * F::ln2_lo});
  }
  const T e = y * from_bits<T>(bits(t) << F::mantissa) * back;
  return x < F::exp_zero ? T(0) : e;
}

// Whether both rows leave a class out.
template <class T> LOSSKIT_INLINE bool neither(T x, T y) { return (x == -infinity<T>)&(y == -infinity<T>); }

// The exponentials of both rows, each relative to its largest, and the differences d of these distances.
template <class T>
LOSSKIT_INLINE void exponentials(const T* z, const T* u, const From<T>& from, int64_t n, T* p, T* q, T* d) {
  const T largest = from.largest, most = from.most, inverse = from.inverse;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T x = (z[i] - largest) * inverse, y = (u[i] - most) * inverse;
    // NaN: both rows leave the class out, or one of them is of NaN, which its sum says.
    const T apart = x - y;
    p[i] = exp_below(x), q[i] = exp_below(y), d[i] = apart == apart ? apart : T(0);
  }
}

// Whether a number of n is not less than 1 in magnitude, once `more` is added.
template <class T> LOSSKIT_INLINE bool any_far(const T* d, T more, int64_t n) {
  constexpr Bits<T> magnitude = ~(Bits<T>(1) << (8 * sizeof(T) - 1));
  Bits<T> far = 0;
  for (int64_t i = 0; i < n; ++i) far |= (bits(T(1)) - 1) - (bits(d[i] + more) & magnitude);  // by the highest bit
  return far >> (8 * sizeof(T) - 1) != 0;
}

// From a row's scores to exponentials, their sums, and whether all differences are less than 1, each from that of the
// student's largest class. The largest exponential, which is 1, is a 0 until `normalise`: the sums are of the others.
// The next row, if it lies behind this one, and the memory of the gradient are fetched meanwhile.
template <class T> LOSSKIT_INLINE void begin(Row<T>& row, int64_t n, T* p, T* q, T* d) {
  constexpr int64_t step = 128 / sizeof(T), span = 512;
  const From<T> from = row.from;
  const T *const z = row.z, *const u = row.u;
  row.others = row.of_teacher = 0.0, row.near = true;
  for (int64_t start = 0, length; start < n; start += length) {
    length = n - start < span + kLanes ? n - start : span;
    int64_t i = start;
    for (; i + step <= start + length; i += step) {
      for (int64_t k = i; k < i + step && i < kAhead; k += step / 2) {
        __builtin_prefetch(z + n + k), __builtin_prefetch(u + n + k);
        __builtin_prefetch(row.out + k * sizeof(T), 1);
      }
      exponentials(z + i, u + i, from, step, p + i, q + i, d + i);
    }
    exponentials(z + i, u + i, from, start + length - i, p + i, q + i, d + i);
    if (static_cast<uint64_t>(row.top - start) < static_cast<uint64_t>(length)) p[row.top] = 0;
    if (static_cast<uint64_t>(row.heaviest - start) < static_cast<uint64_t>(length)) q[row.heaviest] = 0;
    row.others += total(p + start, length), row.of_teacher += total(q + start, length);
    row.near = row.near && !any_far(d + start, from.at_top, length);
  }
}

// The differences of near rows with all their digits: floats in double, doubles with what rounding took (Knuth's
// two-sum).
LOSSKIT_INLINE void differences(const float* z, const float* u, double largest, double base, double inverse, int64_t n,
                                float* d) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double a = static_cast<double>(z[i]) - largest, b = static_cast<double>(u[i]) - base;
    d[i] = static_cast<float>((neither(a, b) ? 0.0 : a - b) * inverse);
  }
}
LOSSKIT_INLINE void differences(const double* z, const double* u, double largest, double base, double inverse,
                                int64_t n, double* d) {
  const auto lost = [](double a, double b, double difference) __attribute__((always_inline)) {
    const double taken = a - difference;
    return (a - (difference + taken)) + (taken - b);
  };
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double a = z[i] - largest, b = u[i] - base, apart = a - b;
    const double more = lost(z[i], largest, a) - lost(u[i], base, b) + lost(a, b, apart);
    d[i] = (neither(a, b) ? 0.0 : apart + more) * inverse;
  }
}

// The sum of e_c (exp(d_c) - 1), where all d are small.
template <class T> LOSSKIT_INLINE double sum_of_changes(const T* e, const T* d, int64_t n, T* spare) {
  double sum = 0.0;
  for (int64_t i = 0, length; i < n; i += length) {
    length = std::min(kBlock, n - i);
#pragma GCC ivdep
    for (int64_t k = 0; k < length; ++k) spare[k] = e[i + k] * expm1(d[i + k]);
    sum += total(spare, length);
  }
  return sum;
}

// From the row's exponentials to what the formula speaks of.
template <class T> LOSSKIT_INLINE void normalise(Row<T>& row, double inverse, int64_t n, T* p, T* q, T* d, T* spare) {
  const T of_student = static_cast<T>(1.0 / (1.0 + row.others)),
          of_teacher = static_cast<T>(1.0 / (1.0 + row.of_teacher));
  if (row.near) {
    differences(row.z, row.u, double(row.largest), double(row.u[row.top]), inverse, n, d);
    q[row.heaviest] = 1;
    const double shift = std::log1p(sum_of_changes(q, d, n, spare) / (1.0 + row.of_teacher));
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      p[i] *= of_student, q[i] *= of_teacher;
      d[i] = static_cast<T>(static_cast<double>(d[i]) - shift);
    }
  } else {
    const T shift = static_cast<T>(std::log1p(row.others) - std::log1p(row.of_teacher));
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) p[i] *= of_student, q[i] *= of_teacher, d[i] -= shift;
  }
  p[row.top] = of_student, q[row.heaviest] = of_teacher;
}

// (h_c - p_c S) scale: the gradient, but of the student's largest class minus the sum of the others', which says so
// without the differences that cancel where the student is almost certain. There h may be nearly p times a number, that
// of the largest class; it is then taken from both.
template <class T> LOSSKIT_INLINE void spread(const Row<T>& row, const T* p, T* h, double scale, int64_t n, T* out) {
  const double own = static_cast<double>(h[row.top]);
  h[row.top] = 0;  // its gradient is the last line
  const double others = total(h, n);
  const double share = 1.0 / (1.0 + row.others);  // the probability of the largest class
  const double ratio = own / static_cast<double>(p[row.top]), sum = own + others;
  const double rest = others - ratio * (row.others * share);
  const bool common = std::abs(rest) < std::abs(sum);
  const T a = static_cast<T>(scale), b = static_cast<T>((common ? rest : sum) * scale);
  const T taken = common ? static_cast<T>(ratio) : T(0);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = (h[i] - p[i] * taken) * a - p[i] * b;
  out[row.top] = static_cast<T>((own * row.others - others) * share * scale);
}

}  // namespace
}  // namespace losskit
