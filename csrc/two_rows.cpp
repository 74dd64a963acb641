// The loop of the two-rows family: a formula of a class's probabilities in two rows of scores, the student's and the
// teacher's, and of the logarithm of their ratio, summed over the classes.
//
// 1. Both sums of exponentials must be known before the formula, and the sum of its derivatives before the gradient. A
//    block is as many rows as 1024 numbers hold, or one longer row: its numbers stay in L1 (longer: in L2) for that.
// 2. Exponentials are relative to the row's largest one, which is 1 and left out of the sum: a row that is almost
// certain
//    keeps its digits.
// 3. The ratio's logarithm is the difference of scores less one number of the row. Where all differences are less than
// 1
//    that is log1p of the sum of q (e^d - 1), which has all digits; else the difference of two logarithms.
// 4. The derivative h is by the student's log-probability; that by a score is h - p times the sum of h, over the
//    temperature. There is none by the teacher's scores.
// 5. Floats are computed as floats and summed in double. Their differences are computed in double where rows are near.
#include "two_rows.h"

namespace losskit {
namespace {

template <class T> const T* scores_of(const Job& job, int slot, int64_t offset, T* buffer) {
  const Source& source = job.sources[slot];
  const char* data = source.data + offset * size_of(source.dtype);
  if (job.class_steps[slot] == 1 && source.dtype == kOwn<T>) return reinterpret_cast<const T*>(data);
  read_run(source.dtype, data, job.class_steps[slot], job.classes, buffer);
  return buffer;
}

// The place of row `row` in the tensors.
void offsets_at(const Job& job, int64_t row, int64_t* offsets) {
  for (int slot = 0; slot < kSlots; ++slot) offsets[slot] = 0;
  for (int d = job.walk.dims - 1; d >= 0; --d) {
    const int64_t at = row % job.walk.sizes[d];
    row /= job.walk.sizes[d];
    for (int slot = 0; slot < kSlots; ++slot) offsets[slot] += at * job.sources[slot].strides[d];
  }
}

template <class T> LOSSKIT_INLINE void look(Row<T>& row, int64_t n) {
  row.top = largest_of(row.z, n), row.heaviest = largest_of(row.u, n);
  row.largest = row.z[row.top], row.most = row.u[row.heaviest];
}

// Rows with infinite scores, which become their limit.
template <class T> void limit(Row<T>& row, int64_t n, T* z, T* u) {
  if (row.largest == infinity<T>) {
    if (row.z != z) std::copy(row.z, row.z + n, z);
    to_limit(z, n), row.z = z, row.state = kEndless;
  }
  if (row.most == infinity<T>) {
    if (row.u != u) std::copy(row.u, row.u + n, u);
    to_limit(u, n), row.u = u;
  }
  look(row, n);
}

// From the scores of a row to its exponentials; rows that do not count are of zeros.
template <class T> LOSSKIT_INLINE void begin_row(const Job& job, Row<T>& row, int64_t n, Scratch<T>& s, int64_t at) {
  T *const z = s.z.data + at, *const u = s.u.data + at;
  if (row.state == kMasked) {
    std::fill(z, z + n, T(0)), std::fill(u, u + n, T(0));
    row.z = z, row.u = u;
  }
  look(row, n);
  if (row.largest == infinity<T> || row.most == infinity<T>) limit(row, n, z, u);
  const double apart = double(row.most) - double(row.u[row.top]);
  row.from = {row.largest, row.most, static_cast<T>(job.inverse), -static_cast<T>(apart * job.inverse)};
  begin(row, n, s.p.data + at, s.q.data + at, s.d.data + at);
}

template <class T> LOSSKIT_CLONES void begin_block(const Job& job, int64_t rows, Scratch<T>& s) {
  const int64_t n = job.classes;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * n;
    begin_row(job, s.rows[r], n, s, at);
    normalise(s.rows[r], job.inverse, n, s.p.data + at, s.q.data + at, s.d.data + at, s.spare);
  }
}

template <class T> LOSSKIT_CLONES double total_of_row(const T* x, int64_t n) { return total(x, n); }

template <class T>
LOSSKIT_CLONES void spread_row(const Row<T>& row, const T* p, T* h, double scale, int64_t n, T* out) {
  spread(row, p, h, scale, n, out);
}

// The formula of some classes: their values, and the derivatives h where a gradient is wanted.
template <class T> void evaluate(const Job& job, Scratch<T>& s, int64_t at, int64_t n) {
  const T* statistics[] = {s.q.data + at, s.p.data + at, s.d.data + at};
  const T* operands[kOperands] = {};
  T* derivatives[kOperands] = {};
  for (int k = 0; k < 3; ++k)
    if (job.places[k] >= 0) operands[job.places[k]] = statistics[k];
  derivatives[job.places[2]] = s.h.data + at;
  const int variant = job.gradients[0] ? kPredictions : kNone;
  run_formula(job, variant, n, operands, 1.0, s.values, derivatives);
}

template <class T> void write_gradient(const Job& job, int64_t offset, const Row<T>& row, int64_t at, Scratch<T>& s) {
  const int64_t n = job.classes, step = job.class_steps[kGradient];
  const Source& to = job.sources[kGradient];
  char* const place = const_cast<char*>(to.data) + offset * size_of(to.dtype);
  const bool direct = step == 1 && to.dtype == kOwn<T>;
  T* const out = direct ? reinterpret_cast<T*>(place) : s.out.data;
  if (row.state != kCounts)
    std::fill(out, out + n, T(0));
  else
    spread_row(row, s.p.data + at, s.h.data + at, row.weight * job.scale * job.factor * job.inverse, n, out);
  if (direct) return;
  if (step == 1)
    write_run(to.dtype, out, n, place);
  else
    write_apart(to.dtype, out, n, step, place);
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& s) {
  const int64_t begin = block * job.batch, rows = std::min(job.batch, job.walk.numel - begin), n = job.classes;
  const float* mask = mask_of(job, begin, rows, s);
  const double* weights = factors(job, {kSampleWeight, kUpstream}, begin, rows, s);
  int64_t offsets[kSlots];
  for (int64_t r = 0; r < rows; ++r) {
    Row<T>& row = s.rows[r];
    offsets_at(job, begin + r, offsets);
    row.state = mask && mask[r] == 0.0f ? kMasked : kCounts;
    row.weight = weights ? weights[r] : 1.0;
    const Source& to = job.sources[kGradient];
    row.out = to.present() ? to.data + offsets[kGradient] * size_of(to.dtype) : reinterpret_cast<const char*>(s.p.data);
    row.z = scores_of(job, kStudent, offsets[kStudent], s.z.data + r * n);
    row.u = scores_of(job, kTeacher, offsets[kTeacher], s.u.data + r * n);
  }
  begin_block(job, rows, s);
  Sum total;
  double sum = 0.0;  // of a long row
  T losses[kBlock];
  for (int64_t at = 0, length; at < rows * n; at += length) {
    length = std::min(kBlock, rows * n - at);
    evaluate(job, s, at, length);
    if (rows > 1) continue;  // all of them are in this piece
    sum += total_of_row(s.values, length);
  }
  const bool backward = job.sources[kUpstream].present();
  for (int64_t r = 0; r < rows && !backward; ++r) {
    const Row<T>& row = s.rows[r];
    const double loss = rows > 1 ? total_of_row(s.values + r * n, n) : sum;
    const double weighed = row.state == kMasked ? 0.0 : loss * job.factor * row.weight;
    total.add(weighed);
    losses[r] = static_cast<T>(weighed);
  }
  for (int64_t r = 0; r < rows && job.gradients[0]; ++r) {
    offsets_at(job, begin + r, offsets);
    write_gradient(job, offsets[kGradient], s.rows[r], r * n, s);
  }
  if (backward) return;
  if (job.options.reduction != kElements)
    job.sums[block] = total;
  else
    write_run(job.result, losses, rows, job.values + begin * size_of(job.result));
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T> scratch(job);
  for (int64_t block = begin; block < end; ++block) run_block<T>(job, block, scratch);
}

bool Job::read(const Inputs& in) {
  const Tensor &a = in.operands[0], &b = in.operands[1];
  const int dims = static_cast<int>(a.dim());
  if (in.operands.size() != 2 || in.weight || dims < 1 || dims > kDims || b.dim() != dims) return false;
  if (options.gradients & ~1 || !kernel || kernel->abi != kAbi) return false;
  const auto sizes = a.sizes();
  if (!std::equal(sizes.begin(), sizes.end(), b.sizes().begin())) return false;
  classes = sizes[dims - 1];
  if (classes == 0) return false;
  start(walk, dims - 1, sizes.data(), a.strides().data());
  for (const int slot : {kStudent, kTeacher}) {
    const Tensor& tensor = in.operands[slot];
    if (!floating(dtype_of(tensor)) || !attach(walk, tensor, false, sources[slot], 1)) return false;
    class_steps[slot] = tensor.strides()[dims - 1];
  }
  overwrite = wire::two_rows::overwrite(options.family) && options.gradients == 1 && options.reduction != kElements &&
              a.is_contiguous();
  result = promote(dtype_of(a), dtype_of(b));
  if (is_half(dtype_of(a)) && is_half(dtype_of(b)) && dtype_of(a) != dtype_of(b)) result = DType::kFloat;
  inverse = 1.0 / in.numbers[wire::two_rows::kTemperature];
  factor = in.numbers[wire::two_rows::kFactor];
  int taken = 0;
  for (int k = 0; k < kOperands; ++k) {
    const int which = static_cast<int>(wire::two_rows::statistics(options.family, k)) - 1;
    if (which < 0) break;
    if (which >= 3 || places[which] >= 0) return false;
    places[which] = taken++;
  }
  return kernel->operands == taken && places[2] >= 0;
}

void Job::outputs(const Inputs& in, Result& out) {
  if (!(options.gradients & 1)) return;
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  gradient_dtypes[0] = dtype_of(a);
  Source& source = sources[kGradient];
  if (overwrite) {  // a row has become probabilities by the time that its gradient is written
    out.gradients[0] = again(a);
    gradients[0] = const_cast<char*>(sources[kStudent].data);
    gradient_sizes[0] = a.numel();
    source = sources[kStudent];
    class_steps[kGradient] = 1;
    if (!gradients[0]) gradients[0] = reinterpret_cast<char*>(this), source.data = gradients[0];
    return;
  }
  const auto dense = allocate_like(*this, out, 0, a);
  source.dtype = gradient_dtypes[0];
  source.data = gradients[0] ? gradients[0] : reinterpret_cast<const char*>(this);  // empty: present, never written
  if (!gradients[0]) gradients[0] = reinterpret_cast<char*>(this);
  for (int i = 0; i < walk.tensor_dims; ++i) source.strides[i] = dense[walk.order[i]];
  class_steps[kGradient] = dense[dims - 1];
}

Work Job::divide() {
  batch = std::max<int64_t>(1, kBlock / classes);
  const bool wide = sources[kStudent].dtype == DType::kDouble || sources[kTeacher].dtype == DType::kDouble;
  return {(walk.numel + batch - 1) / batch, batch * classes, wide ? run_blocks<double> : run_blocks<float>};
}

// Whether there is but one class, or the first row of scores is in [0, 1] and sums to about 1.
bool Job::odd() const {
  if (walk.numel == 0 || classes == 1) return classes == 1;
  for (const int slot : {kStudent, kTeacher}) {
    const Source& source = sources[slot];
    double sum = 0;
    bool within = true;
    for (int64_t c = 0; c < classes && within; ++c) {
      double x;
      read_run(source.dtype, source.data + c * class_steps[slot] * size_of(source.dtype), 1, 1, &x);
      within = x >= 0.0 && x <= 1.0;
      sum += x;
    }
    if (within && std::abs(sum - 1.0) < 0.05) return true;
  }
  return false;
}

}  // namespace

Result two_rows(const Inputs& in) {
  Job job;
  if (in.operands.size() != 2) return {};
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(two_rows)
