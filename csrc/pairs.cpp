// The op of the pairs family: losses and gradients of the operands of a call from sweeps over its rows.
//
// 1. Rows of all operands are copied one after the other, as floats or doubles, of length 1 where cosines are wanted.
//    Gradients lie as the rows do.
// 2. A loss that looks both ways surveys the columns first, in blocks of the turned matrix; the sweep over the rows
// then
//    knows what columns add to a gradient. Where terms or extremes forbid that, each direction is a sweep by itself.
// 3. Distances are computed in double.
#include "pairs_batch.h"
#include "pairs_sweep.h"
#include "pairs_units.h"

namespace losskit {
namespace {

template <class T> struct Making {
  Pairs& call;
  const bool distance = family::measure(call.options.family) == wire::kDistance;
  const bool cosine = family::measure(call.options.family) == wire::kCosine;
  const int64_t temperature = family::temperature(call.options.family),
                logit_scale = family::logit_scale(call.options.family),
                logit_bias = family::logit_bias(call.options.family);
  bool wanted[2] = {};  // gradients by rows, by columns
  Memory<T> x, gradient;
  std::vector<double> lengths, share, values, of_scale, of_bias;  // lengths: by what rows were multiplied
  Sum scale_total, bias_total;

  void run();
  void read();
  void take_shares();
  Job<T> job(bool turned);
  void sweep(bool turned, double* survey, const double* surveyed, double* out);
  void write_losses();
  void write_gradients();
  void write_number(int64_t place, double value);
};

template <class T> void Making<T>::run() {
  const bool of_scale_wanted = call.wants(temperature) || call.wants(logit_scale), bias_wanted = call.wants(logit_bias);
  for (const Part& part : call.parts)
    if (call.gradients[part.operand]) wanted[call.own || part.operand == 0 ? 0 : 1] = true;
  if (of_scale_wanted || call.own) wanted[0] = wanted[1] = wanted[0] || of_scale_wanted;
  read();
  const bool backward = wanted[0] || wanted[1] || bias_wanted;
  if (of_scale_wanted) of_scale.resize(call.count);
  if (bias_wanted) of_bias.resize(call.count);
  values.resize(call.count);
  if (backward) {
    gradient.take_zeros(call.total * call.width);
    take_shares();
  }
  if (!family::symmetric(call.options.family)) {
    sweep(false, nullptr, nullptr, values.data());
  } else {
    std::vector<double> turned(call.count), survey;
    const Job<T> own = job(false);
    const auto of_powers = [&own](int side) {
      return !own.terms[side].present() && !own.wanted[side][kLargest] && !own.wanted[side][kSmallest];
    };
    if (backward && !distance && of_powers(0) && of_powers(1)) survey.resize(kSurveyed * call.count);
    double* surveyed = survey.empty() ? nullptr : survey.data();
    sweep(true, surveyed, nullptr, turned.data());
    sweep(false, nullptr, surveyed, values.data());
    for (int64_t i = 0; i < call.count; ++i) values[i] = 0.5 * (values[i] + turned[i]);
  }
  write_losses();
  if (backward) write_gradients();
}

// Copies rows, and makes them as long as they have to be.
template <class T> void Making<T>::read() {
  const int64_t width = call.width;
  x.take(call.total * width);
  if (cosine) lengths.resize(call.total);
  for (const Part& part : call.parts)
    for (size_t i = 0; i < part.left.size(); ++i) {
      const int64_t at = part.begin + static_cast<int64_t>(i);
      T* row = x.data + at * width;
      read_run(part.dtype, part.data + part.place(part.left[i], part.steps) * size_of(part.dtype), part.steps[2], width,
               row);
      if (cosine) lengths[at] = make_unit(row, width);
    }
}

// By what the gradients by the losses of rows are multiplied.
template <class T> void Making<T>::take_shares() {
  const double scale = family::symmetric(call.options.family) ? 0.5 * call.scale : call.scale;
  std::vector<double> upstream;
  Weights scratch;
  for (int64_t begin = 0; call.sources[kUpstream].present() && begin < call.walk.numel; begin += kBlock) {
    const int64_t n = std::min(kBlock, call.walk.numel - begin);
    const double* given = factors(call, {kUpstream}, begin, n, scratch);
    upstream.insert(upstream.end(), given, given + n);
  }
  share.resize(call.count);
  for (int64_t i = 0; i < call.count; ++i)
    if (call.counts[i]) share[i] = call.weight(i) * scale * (upstream.empty() ? 1.0 : upstream[call.units[i]]);
}

template <class T> Job<T> Making<T>::job(bool turned) {
  const std::span<const double> numbers = call.in->numbers;
  Job<T> found{turned ? call.count : call.columns(),
               call.own,
               call.order.columns.data(),
               call.order.first.data(),
               call.order.last.data(),
               share.empty() ? nullptr : share.data(),
               nullptr,
               nullptr,
               static_cast<T>(call.multiplier),
               static_cast<T>(call.bias),
               call.kernel,
               {},
               call.statistics,
               {},
               {Term<T>(static_cast<int64_t>(numbers[family::kPositive]), &numbers[family::kPositive0]),
                Term<T>(static_cast<int64_t>(numbers[family::kNegative]), &numbers[family::kNegative0])}};
  std::copy(call.parameters, call.parameters + kMaxParameters, found.parameters);
  for (const int64_t code : found.statistics) found.wanted[code / kAggregates][code % kAggregates] = true;
  found.group = std::clamp<int64_t>(kGroup / std::max<int64_t>(1, found.columns), 1, kRows);
  return found;
}

// The losses of rows, or of columns; gradients, or what a survey needs of them.
template <class T> void Making<T>::sweep(bool turned, double* survey, const double* surveyed, double* out) {
  const int64_t apart = call.own ? 0 : call.count * call.width;
  const T *rows = x.data, *columns = x.data + apart;
  T* by_rows = wanted[0] && !survey ? gradient.data : nullptr;
  T* by_columns = wanted[1] && !survey ? gradient.data + apart : nullptr;
  Sweep<T> all{job(turned),
               turned ? columns : rows,
               turned ? rows : columns,
               call.count,
               call.width,
               turned ? by_columns : by_rows,
               turned ? by_rows : by_columns,
               of_scale.empty() || survey ? nullptr : of_scale.data(),
               of_bias.empty() || survey ? nullptr : of_bias.data(),
               distance,
               call.exact};
  all.job.values = out;
  all.job.survey = survey;
  if (surveyed) all.job.take_survey(surveyed);
  all.run();
  if (survey) return;
  for (const double one : of_scale) scale_total.add(one);
  for (const double one : of_bias) bias_total.add(one);
}

template <class T> void Making<T>::write_losses() {
  const bool elements = call.options.reduction == kElements;
  if (elements && !call.values) return;
  std::vector<double> each(elements ? call.walk.numel : 0);
  for (int64_t i = 0; i < call.count; ++i) {
    if (!call.counts[i]) continue;
    const double value = call.weights.empty() ? values[i] : values[i] * call.weights[i];
    if (elements)
      each[call.units[i]] = value;
    else
      call.sums[0].add(value);
  }
  if (elements) write_run(call.result, each.data(), call.walk.numel, call.values);
}

template <class T> void Making<T>::write_gradients() {
  const int64_t width = call.width;
  for (const Part& part : call.parts) {
    char* to = call.gradients[part.operand];
    if (!to) continue;
    const DType dtype = call.gradient_dtypes[part.operand];
    const int64_t kept = static_cast<int64_t>(part.left.size());
    if (kept < part.count) std::memset(to, 0, call.gradient_sizes[part.operand] * size_of(dtype));
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t at = part.begin + i;
      T* own = gradient.data + at * width;
      const T* unit = x.data + at * width;
      if (cosine)
        across(own, unit, dot(own, unit, width), call.multiplier * lengths[at], width);
      else
        multiply_by(own, width, static_cast<T>(call.multiplier));
      char* place = to + part.place(part.left[i], part.gradient_steps) * size_of(dtype);
      if (part.gradient_steps[2] == 1)
        write_run(dtype, own, width, place);
      else
        write_apart(dtype, own, width, part.gradient_steps[2], place);
    }
  }
  write_number(temperature, -scale_total.value() * call.multiplier * call.multiplier);
  write_number(logit_scale, scale_total.value());
  write_number(logit_bias, bias_total.value());
}

template <class T> void Making<T>::write_number(int64_t place, double value) {
  if (call.wants(place)) write_run(call.gradient_dtypes[place - 1], &value, 1, call.gradients[place - 1]);
}

template <class T> void run_call(int64_t, int64_t, void* context) { Making<T>{*static_cast<Pairs*>(context)}.run(); }

Work Pairs::divide() {
  const bool wide = exact || family::measure(options.family) == wire::kDistance;
  return {1, 1, wide ? run_call<double> : run_call<float>};
}

}  // namespace

Result pairs(const Inputs& in) {
  Pairs job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(pairs)
