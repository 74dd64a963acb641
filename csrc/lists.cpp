// The loop of the lists family: a formula of pairs of items of which the first is more relevant, summed over the pairs
// of a list.
//
// 1. Items are sorted by relevance, so that the partners of an item are a run of items: no pair is looked at in vain,
//    and none is stored. Pairs are gathered, those of several items and lists, until they fill the 1024 numbers that
//    the block function takes; so lists of ten items fill vectors, too.
// 2. Long lists are swept in tiles of second items, whose scores and gradients stay in L1.
// 3. Ranks need a second sort, by score, and only where the formula or `k` asks for ranks. Differences of gains and
//    discounts are taken in double and rounded once.
// 4. Values and slopes are added in double, in one order. A list of floats with a sum that is not finite is computed
// once
//    more in double, where intermediate results do not overflow.
// 5. Which lists have a pair is known before, since the mean divides by their number. An item that differs in relevance
//    from the first one decides.
#include "lists_batch.h"

namespace losskit {
namespace {

constexpr int64_t kItems = 2048;  // of a batch of short lists: its arrays stay in L2

template <class T> void run_batches(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T> scratch;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i * job.batch;
    Batch<T>{job, scratch, first, std::min(job.batch, job.rows - first)}.run();
  }
}

// Whether a list has a pair, or something that makes it NaN: a relevance that is NaN, or refused.
bool counts_at_all(const Job& job, int64_t row, const double* relevance) {
  const double* first = nullptr;
  for (int64_t j = 0; j < job.items; ++j) {
    if (job.there && !job.there[row * job.there_steps[0] + j * job.there_steps[1]]) continue;
    if (!first) first = relevance + j;
    if (relevance[j] != *first || (*first < 0.0 && job.options.checks != kOff)) return true;
  }
  return false;
}

bool attach_items(const Tensor& tensor, const Tensor& like, int64_t steps[2]) {
  const auto sizes = like.sizes(), own = tensor.sizes(), strides = tensor.strides();
  if (own.size() != sizes.size() || !std::equal(own.begin(), own.end(), sizes.begin()) || !tensor.is_cpu())
    return false;
  steps[0] = own.size() == 2 ? strides[0] : 0;
  steps[1] = strides[own.size() - 1];
  return true;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  if (in.operands.size() < 2 || in.operands.size() > 3 || dims < 1 || dims > 2 || in.weight) return false;
  const Tensor& b = in.operands[1];
  const auto sizes = a.sizes();
  result = score_dtype = gradient_dtypes[0] = dtype_of(a);
  relevance_dtype = dtype_of(b);
  if (!floating(score_dtype) || !known(relevance_dtype)) return false;
  if (!attach_items(a, a, score_steps) || !attach_items(b, a, relevance_steps)) return false;
  if (kernel->abi != kAbi || statistic(0) != Statistic::kDifference) return false;
  rows = dims == 2 ? sizes[0] : 1;
  items = sizes[dims - 1];
  if (items > std::numeric_limits<int32_t>::max() / 2) return false;
  scores = static_cast<const char*>(a.data_ptr());
  relevance = static_cast<const char*>(b.data_ptr());
  if (in.operands.size() == 3) {
    if (dtype_of(in.operands[2]) != DType::kBool || !attach_items(in.operands[2], a, there_steps)) return false;
    there = static_cast<const char*>(in.operands[2].data_ptr());
  }
  averaged = wire::lists::averaged(options.family);
  const double k = in.numbers[wire::lists::kK];
  most = k > 0.0 && k < static_cast<double>(items) ? static_cast<int64_t>(k) : items;
  ranked = most < items;
  for (int operand = 1; operand < kernel->operands; ++operand) {
    weighed |= statistic(operand) == Statistic::kGainDifference;
    ranked |= statistic(operand) >= Statistic::kDiscountDifference;
  }
  const int64_t one = 1;
  start(walk, dims - 1, sizes.data(), &one);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  const auto dense = allocate_like(*this, out, 0, a);
  gradient_steps[0] = dims == 2 ? dense[0] : 0;
  gradient_steps[1] = dense[dims - 1];
  counts.resize(rows);
  batch = std::max<int64_t>(1, std::min({rows, kBlock, kItems / std::max<int64_t>(1, items)}));
  std::vector<double> numbers(batch * items);
  for (int64_t begin = 0; begin < rows; begin += batch) {
    const int64_t n = std::min(batch, rows - begin);
    read_rows(relevance_dtype, relevance, relevance_steps, begin, n, items, numbers.data());
    for (int64_t r = 0; r < n; ++r)
      counts[begin + r] = counts_at_all(*this, begin + r, numbers.data() + r * items) ? 1.0f : 0.0f;
  }
  discounts.resize(items + 2);
  if (!ranked && !weighed) return;
  for (int64_t rank = 1; rank < items + 2; ++rank) discounts[rank] = 1.0 / std::log2(static_cast<double>(rank + 1));
  steps.resize(items + 1);
  for (int64_t apart = 1; apart < items + 1; ++apart) steps[apart] = discounts[apart] - discounts[apart + 1];
}

double Job::counted() const {
  Weights scratch;
  Sum total;
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t n = std::min(kBlock, rows - begin);
    const float* mask = mask_of(*this, begin, n, scratch);
    const double* factor = factors(*this, {kSampleWeight}, begin, n, scratch);
    for (int64_t i = 0; i < n; ++i)
      if (counts[begin + i] != 0.0f && (!mask || mask[i] != 0.0f)) total.add(factor ? factor[i] : 1.0);
  }
  return total.value();
}

Work Job::divide() {
  const int64_t cost = batch * std::max<int64_t>(items, 1) * (1 + std::min<int64_t>(items, kGrain) / 2);
  return {(rows + batch - 1) / batch, cost, score_dtype == DType::kDouble ? run_batches<double> : run_batches<float>};
}

}  // namespace

Result lists(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(lists)
