// The loops of the ordered family: rows whose elements are put into an order, and of which the loss of each depends on
// those before or after it.
//
// 1. The statistics that the formula takes say what the rows are: `log_share`, lists of scores in the order of a key
//    (ordered_lists.h); `scan`, ordered classes (ordered_classes.h); `error` and `step`, sets of pixels in the order of
//    their errors (ordered_errors.h, of few pixels ordered_few.h).
// 2. A row is the work of one thread, from beginning to end, so that its bits depend on nothing else. Arithmetic is in
//    double: along a row of a million elements floats would lose their digits.
// 3. Time is n, by the digits of the keys. Elements that do not count leave before the sort.
// 4. A unit that has no loss to give (a list of one element, or without an event; no pixel that counts; a class that is
//    absent) is a masked one: its loss is 0, its gradient too, and it is not in the denominator.
//
// numbers: normalizer, factor, ignore_index, parameters of the formula. Operands: the input; the key, the target; the
// events of lists that have some; a mask of elements.
#include "ordered_classes.h"
#include "ordered_few.h"

namespace losskit {
namespace {

// A walk in the order of a tensor's dimensions, whatever their strides are.
Walk in_order(int dims, const int64_t* sizes) {
  std::array<int64_t, kDims> strides{};
  int64_t step = 1;
  for (int i = dims - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(sizes[i], 1);
  }
  Walk walk;
  start(walk, dims, sizes, strides.data());
  return walk;
}

bool is_integer(DType dtype) { return !floating(dtype) && dtype != DType::kBool; }

// Elements of the input and of what has its shape.
bool attach_elements(Job& job, const Inputs& in, int first_left_out) {
  for (int k = 0; k < static_cast<int>(in.operands.size()); ++k) {
    if (k == first_left_out) continue;
    const bool mask = k == job.masks;
    if (!attach(job.elements, in.operands[k], mask, job.own[k])) return false;
    if (!mask && in.operands[k].dim() != in.operands[0].dim()) return false;
    if (mask && job.own[k].dtype != DType::kBool) return false;
  }
  return true;
}

bool read_lists(Job& job, const Inputs& in, int dims, const int64_t* sizes) {
  if (job.event >= 0 && in.operands.size() < 3) return false;
  job.width = sizes[dims - 1];
  job.walk = in_order(dims - 1, sizes);
  job.units = job.walk.numel;
  return attach_elements(job, in, -1);
}

bool read_classes(Job& job, const Inputs& in, int dims, const int64_t* sizes) {
  const Tensor& target = in.operands[1];
  job.width = job.classes = sizes[dims - 1];
  job.walk = in_order(dims - 1, sizes);
  job.units = job.walk.numel;
  job.soft = floating(dtype_of(target));
  if (in.operands.size() != 2 || job.width == 0) return false;
  if (job.soft) {
    job.result = promote(job.result, dtype_of(target));
    return target.dim() == dims && attach_elements(job, in, -1);
  }
  return is_integer(dtype_of(target)) && target.dim() == dims - 1 && attach_elements(job, in, 1) &&
         attach(job.walk, target, false, job.labels);
}

bool read_signs(Job& job, const Inputs& in, int dims, const int64_t* sizes) {
  const int of_units = job.whole || dims == 1 ? 0 : 1;
  job.walk = in_order(of_units, sizes);
  job.units = job.walk.numel;
  job.width = 1;
  for (int i = of_units; i < dims; ++i) job.width *= sizes[i];
  return attach_elements(job, in, -1);
}

bool read_pixels(Job& job, const Inputs& in, int dims, const int64_t* sizes) {
  const Tensor& target = in.operands[1];
  if (in.operands.size() != 2 || dims < 2 || target.dim() != dims - 1 || !is_integer(dtype_of(target))) return false;
  if (sizes[1] == 0 || (job.options.reduction == kElements && job.options.gradients)) return false;
  std::array<int64_t, kDims> of_target{};
  of_target[0] = sizes[0];
  for (int i = 2; i < dims; ++i) of_target[i - 1] = sizes[i];
  job.pixels = in_order(dims - 1, of_target.data());
  job.images = sizes[0], job.classes = sizes[1];
  job.sets = job.whole ? 1 : job.images;
  job.plane = 1;
  for (int i = 2; i < dims; ++i) job.plane *= sizes[i];
  job.width = job.whole ? job.images * job.plane : job.plane;
  job.walk = job.whole ? in_order(1, sizes + 1) : in_order(2, sizes);
  job.units = job.walk.numel;
  return attach_elements(job, in, 1) && attach(job.pixels, target, false, job.labels);
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  if (dims < 1 || dims > kDims || in.operands.size() < 2 || in.operands.size() > kTensors || in.weight) return false;
  if (kernel->abi != kAbi || !a.is_cpu()) return false;
  const auto sizes = a.sizes();
  elements = in_order(dims, sizes.data());
  result = input_dtype = gradient_dtypes[0] = dtype_of(a);
  if (!floating(input_dtype)) return false;
  const Statistic first = wire::ordered::statistics(options.family, 0);
  swapped = first == Statistic::kStep;
  statistic = swapped ? Statistic::kError : first;
  ignored = static_cast<int64_t>(in.numbers[wire::ordered::kIgnoreIndex]);
  whole = wire::ordered::whole(options.family);
  if (wire::ordered::masks(options.family)) masks = static_cast<int>(in.operands.size()) - 1;
  if (wire::ordered::events(options.family)) event = 2;
  const bool lists = statistic == Statistic::kLogShare, rows_of_classes = statistic == Statistic::kScan;
  if (kernel->operands != (lists || rows_of_classes ? 1 : 2)) return false;
  const bool read = lists                                    ? read_lists(*this, in, dims, sizes.data())
                    : rows_of_classes                        ? read_classes(*this, in, dims, sizes.data())
                    : wire::ordered::classes(options.family) ? read_pixels(*this, in, dims, sizes.data())
                                                             : read_signs(*this, in, dims, sizes.data());
  return read && width < int64_t(1) << 31;
}

void Job::outputs(const Inputs& in, Result& out) {
  const auto sizes = in.operands[0].sizes();
  const auto dense = dense_strides(elements);
  allocate_gradient(*this, out, 0, static_cast<int>(sizes.size()), sizes.data(), dense.data());
  if (statistic != Statistic::kError || !wire::ordered::classes(options.family)) return;
  many.assign(units, 0.0);
  spoilt.assign(sets, 0);
  int64_t read[kBlock];
  for (int64_t set = 0; set < sets; ++set) {
    double some = 0.0;
    for (int64_t first = 0; first < width; first += kBlock) {
      const int64_t n = std::min(kBlock, width - first);
      const int64_t* const of_pixels = fetch(pixels, labels, set * width + first, n, read);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t label = of_pixels[i];
        if (label == ignored) continue;
        some = 1.0;
        if (label >= 0 && label < classes)
          many[set * classes + label] = 1.0;
        else
          spoilt[set] = 1;
      }
    }
    if (wire::ordered::absent(options.family)) std::fill(&many[set * classes], &many[set * classes] + classes, some);
  }
}

LOSSKIT_CLONES int32_t both_set(const float* a, const float* b, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found += (a[i] != 0.0f) & (b[i] != 0.0f);
  return found;
}

// How much a unit counts in the denominator.
double many_of(const Job& job, int64_t unit) {
  if (job.statistic == Statistic::kScan) return 1.0;
  if (!job.many.empty()) return job.many[unit];
  const bool lists = job.statistic == Statistic::kLogShare;
  if (job.masks < 0 && job.event < 0) return job.width > (lists ? 1 : 0);
  float mask_block[kBlock], event_block[kBlock];
  int64_t found = 0;
  for (int64_t at = 0; at < job.width; at += kBlock) {
    const int64_t n = std::min(kBlock, job.width - at), begin = unit * job.width + at;
    const float* mask = job.masks < 0 ? nullptr : fetch(job.elements, job.own[job.masks], begin, n, mask_block);
    const float* event = job.event < 0 ? nullptr : fetch(job.elements, job.own[job.event], begin, n, event_block);
    found += both_set(mask ? mask : event, event ? event : mask, n);
  }
  return job.event >= 0 ? static_cast<double>(found) : found > (lists ? 1 : 0);
}

double Job::counted() const {
  Sum total;
  for (int64_t unit = 0; unit < units; ++unit)
    if (counts(*this, unit)) total.add(many_of(*this, unit) * weight_of(*this, unit));
  return total.value();
}

template <class T> void prepare_pixels(Job& job) {
  const int64_t n = job.units * job.width;
  if constexpr (sizeof(T) == 4) {
    job.errors32.get(n);
    if (job.options.gradients) job.slopes32.get(n);
  } else {
    job.errors64.get(n);
    if (job.options.gradients) job.slopes64.get(n);
  }
  const int64_t blocks = job.images * ((job.plane + kBlock - 1) / kBlock);
  run_parallel(blocks, std::max<int64_t>(1, kGrain / (kBlock * job.classes)), write_errors<T>, &job);
}

// Tells the first label that is no class, of a set of which a class counts.
void report_labels(Job& job) {
  int64_t read[kBlock];
  for (int64_t set = 0; set < job.sets; ++set) {
    if (!job.spoilt[set] || !job.active[set] || job.options.checks != kRaise) continue;
    for (int64_t first = 0; first < job.width; first += kBlock) {
      const int64_t n = std::min(kBlock, job.width - first), begin = set * job.width + first;
      const int64_t* const labels = fetch(job.pixels, job.labels, begin, n, read);
      for (int64_t i = 0; i < n; ++i)
        if (labels[i] != job.ignored && (labels[i] < 0 || labels[i] >= job.classes))
          job.report({0, begin + i, static_cast<int64_t>(Violation::kClassIndex), begin + i, labels[i]});
    }
  }
}

Work Job::divide() {
  const bool doubles = input_dtype == DType::kDouble;
  if (statistic == Statistic::kError) {
    if (!wire::ordered::classes(options.family) && takes_few_pixels(*this)) {
      rows = kBlock / width / kSetsSideBySide * kSetsSideBySide;
      return {(units + rows - 1) / rows, 8 * rows * width, run_few_signs};
    }
    if (!wire::ordered::classes(options.family))
      return {units, 8 * width, doubles ? run_signs<uint64_t, double> : run_signs<uint32_t, float>};
    active.assign(sets, 0);
    for (int64_t unit = 0; unit < units; ++unit) active[unit / classes] |= counts(*this, unit);
    report_labels(*this);
    doubles ? prepare_pixels<double>(*this) : prepare_pixels<float>(*this);
    return {units, 8 * width, doubles ? run_pixels<uint64_t, double> : run_pixels<uint32_t, float>};
  }
  rows = std::clamp<int64_t>(kBlock / std::max<int64_t>(width, 1), 1, kBlock);
  const int64_t blocks = (units + rows - 1) / rows, cost = 8 * rows * width;
  if (statistic == Statistic::kScan) return {blocks, cost, run_classes};
  return {blocks, cost, doubles ? run_lists<double> : run_lists<float>};
}

void Job::conclude() {
  if (many.empty() || !options.gradients || first.violation) return;
  const int64_t blocks = images * ((plane + kBlock - 1) / kBlock);
  const auto run = input_dtype == DType::kDouble ? through_softmax<double> : through_softmax<float>;
  run_parallel(blocks, std::max<int64_t>(1, kGrain / (kBlock * classes)), run, this);
}

}  // namespace

Result ordered(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(ordered)
