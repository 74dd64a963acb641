// A call of the pairs family: the rows of its operands, which of them count, and who is compared with whom.
//
// 1. What is masked is left out of the rows and of the columns, so that no number of it is read. Where rows are columns
//    at once, they are the first of the columns.
// 2. Labels become an order of the columns, in which those of one label follow each other: the positives of a row are a
//    piece of it. Places and views are labels, too.
// 3. Which rows count is known from the labels alone, and so is the denominator of a mean.
// 4. Parameters that are tensors and not above 0 are not the op's: Python has the words, or the formula.
#pragma once

#include "drive.h"

namespace losskit {
namespace {

namespace family = wire::pairs;

// An operand whose rows are embeddings.
struct Part {
  int operand;
  const char* data;
  DType dtype;
  int64_t count, inner;  // its rows; those that share a label
  int64_t steps[3];      // of a label, of a row, of a number
  int64_t covered;       // rows that the mask is about
  int64_t unit;          // of the unreduced loss, that is the first row
  int64_t gradient_steps[3] = {};
  std::vector<int64_t> left{};  // rows that are not masked
  int64_t begin = 0;            // of those among all rows that are left
  int64_t place(int64_t row, const int64_t* steps) const { return row / inner * steps[0] + row % inner * steps[1]; }
};

// Rows that look for their pairs among columns: pieces of the columns in an order, by row.
struct Order {
  std::vector<int64_t> columns, first, last;
};

struct Pairs : Call {
  static constexpr size_t kFirstParameter = family::kFirstParameter;
  const Inputs* in = nullptr;
  int64_t width = 0, count = 0, total = 0;  // numbers of a row; rows, and rows and columns that are left
  bool own = false, exact = false;          // whether rows are columns, too; whether an operand is of doubles
  std::vector<Part> parts;
  Order order;
  std::vector<int64_t> units;   // of each row that is left, its place in the unreduced loss
  std::vector<double> weights;  // of each row that is left, if there are any
  std::vector<char> counts;     // whether a row that is left has the pairs that it needs
  std::vector<int64_t> statistics;
  double multiplier = 1.0, bias = 0.0;

  bool read(const Inputs& inputs);
  bool take(int operand, int64_t covered, int64_t unit);
  bool take_number(int64_t place, bool positive, double& out) const;
  void outputs(const Inputs& inputs, Result& result);
  void leave_out();
  void find_pairs();
  void count_rows();
  double counted() const;
  Work divide();

  int64_t columns() const { return own ? total : total - count; }
  bool wants(int64_t place) const { return place > 0 && gradients[place - 1]; }
  double weight(int64_t row) const { return !counts[row] ? 0.0 : weights.empty() ? 1.0 : weights[row]; }
};

// --------------------------------------------------------------------------------------------------------
// Operands

bool is_label(DType dtype) {
  return dtype == DType::kLong || dtype == DType::kInt || dtype == DType::kShort || dtype == DType::kChar ||
         dtype == DType::kByte || dtype == DType::kBool;
}

bool Pairs::take(int operand, int64_t covered, int64_t unit) {
  const Tensor& tensor = in->operands[operand];
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  const int64_t dims = tensor.dim();
  const DType dtype = dtype_of(tensor);
  if (!tensor.is_cpu() || !floating(dtype) || dims < 2 || dims > (operand == 0 ? 3 : 2)) return false;
  if (operand == 0) width = sizes[dims - 1];
  if (sizes[dims - 1] != width) return false;
  const int64_t inner = dims == 3 ? sizes[1] : 1, rows = sizes[0] * inner;
  parts.push_back({operand,
                   static_cast<const char*>(tensor.data_ptr()),
                   dtype,
                   rows,
                   std::max<int64_t>(1, inner),
                   {strides[0], dims == 3 ? strides[1] : 0, strides[dims - 1]},
                   covered < 0 ? rows : covered,
                   unit});
  result = operand == 0 ? dtype : promote(result, dtype);
  gradient_dtypes[operand] = dtype;
  return true;
}

// A parameter that is a tensor with one number.
bool Pairs::take_number(int64_t place, bool positive, double& out) const {
  if (place == 0) return true;
  const Tensor& tensor = in->operands[place - 1];
  if (!tensor.is_cpu() || tensor.numel() != 1 || !known(dtype_of(tensor))) return false;
  read_run(dtype_of(tensor), tensor.data_ptr(), 1, 1, &out);
  return !positive || out > 0.0;
}

bool Pairs::read(const Inputs& inputs) {
  in = &inputs;
  const int64_t code = options.family, pairing = family::pairing(code);
  const bool labels = pairing == wire::kLabels, more = family::more(code), symmetric = family::symmetric(code);
  const int64_t places[] = {family::temperature(code), family::logit_scale(code), family::logit_bias(code)};
  const size_t there = 2 + (more ? (labels ? 2 : 1) : 0);
  if (in->operands.size() != there + std::count_if(places, places + 3, [](int64_t place) { return place > 0; }))
    return false;
  if (in->weight || (symmetric && pairing != wire::kDiagonal) || kernel->abi != kAbi) return false;
  own = pairing != wire::kDiagonal;
  if (!take(0, -1, 0) || (!labels && in->operands[0].dim() != 2)) return false;
  const Part& first = parts[0];
  const int64_t rows = first.count;
  std::vector<int64_t> sizes{own && !labels ? 2 * rows : in->operands[0].sizes()[0]}, steps{first.inner, 1};
  if (in->operands[0].dim() == 3) sizes.push_back(in->operands[0].sizes()[1]);
  if (labels) {
    for (size_t k = 1; k < there; k += 2) {
      const Tensor& target = in->operands[k];
      if (!target.is_cpu() || !is_label(dtype_of(target)) || target.dim() != 1) return false;
      if (target.sizes()[0] != in->operands[k - 1].sizes()[0]) return false;
      if (k == 1 && more && !take(2, 0, 0)) return false;
    }
  } else {
    if (!take(1, rows, own ? rows : 0)) return false;
    const int64_t others = parts[1].count;
    if (others < rows || (others > rows && (own || symmetric))) return false;
    if (more && (!own || !take(2, 0, 0))) return false;
  }
  exact = result == DType::kDouble;

  multiplier = in->numbers[family::kScale];
  bias = in->numbers[family::kBias];
  double temperature = 1.0;
  if (!take_number(places[0], true, temperature) || !take_number(places[1], true, multiplier)) return false;
  if (!take_number(places[2], false, bias)) return false;
  if (places[0]) multiplier = 1.0 / temperature;
  for (const int64_t place : places)
    if (place) gradient_dtypes[place - 1] = dtype_of(in->operands[place - 1]);
  const bool terms[] = {family::positive(code), family::negative(code)};
  if ((terms[0] && in->numbers[family::kPositive] == 0.0) || (terms[1] && in->numbers[family::kNegative] == 0.0))
    return false;
  auto packed = static_cast<int64_t>(in->numbers[family::kAggregates]);
  for (int k = 0; k < kernel->operands; ++k, packed >>= 4) statistics.push_back(packed & 15);
  start(walk, static_cast<int>(sizes.size()), sizes.data(), steps.data());
  return true;
}

void Pairs::outputs(const Inputs&, Result& out) {
  if (options.reduction != kElements || sources[kUpstream].present()) {
    for (Part& part : parts) {
      const Tensor& tensor = in->operands[part.operand];
      const auto dense = allocate_like(*this, out, part.operand, tensor);
      const bool flat = tensor.dim() == 2;
      part.gradient_steps[0] = dense[0];
      part.gradient_steps[1] = flat ? 0 : dense[1];
      part.gradient_steps[2] = dense[flat ? 1 : 2];
    }
    for (const int64_t place :
         {family::temperature(options.family), family::logit_scale(options.family), family::logit_bias(options.family)})
      if (place) allocate_like(*this, out, static_cast<int>(place - 1), in->operands[place - 1]);
  }
  leave_out();
  find_pairs();
  count_rows();
}

// --------------------------------------------------------------------------------------------------------
// Rows and their pairs

// Lists the rows that are not masked, and their weights.
void Pairs::leave_out() {
  const int64_t all = walk.numel;
  const bool weighted = sources[kSampleWeight].present(), masked = sources[kMask].present();
  std::vector<float> kept(masked ? all : 0);
  std::vector<double> given(weighted ? all : 0);
  Weights scratch;
  for (int64_t begin = 0; (masked || weighted) && begin < all; begin += kBlock) {
    const int64_t n = std::min(kBlock, all - begin);
    if (masked) std::copy_n(mask_of(*this, begin, n, scratch), n, kept.data() + begin);
    if (weighted) std::copy_n(factors(*this, {kSampleWeight}, begin, n, scratch), n, given.data() + begin);
  }
  for (Part& part : parts) {
    part.begin = total;
    part.left.reserve(part.count);
    for (int64_t row = 0; row < part.count; ++row)
      if (!masked || row >= part.covered || kept[part.unit + row] != 0.0f) part.left.push_back(row);
    total += static_cast<int64_t>(part.left.size());
    const bool rows = part.operand == 0 || (own && part.covered > 0);
    for (size_t i = 0; rows && i < part.left.size(); ++i) {
      units.push_back(part.unit + part.left[i]);
      if (weighted) weights.push_back(given[units.back()]);
    }
  }
  count = static_cast<int64_t>(units.size());
}

// The columns by label, and where the label of each row begins and ends.
void Pairs::find_pairs() {
  const int64_t size = columns();
  order.columns.resize(size);
  order.first.resize(std::max(size, count));
  order.last.resize(std::max(size, count));
  if (!own) {
    for (int64_t i = 0; i < size; ++i) order.columns[i] = order.first[i] = i, order.last[i] = i + 1;
    return;
  }
  std::vector<std::pair<int64_t, int64_t>> labelled;
  labelled.reserve(size);
  for (const Part& part : parts) {
    const bool labels = family::pairing(options.family) == wire::kLabels;
    std::vector<int64_t> label(labels ? part.count / part.inner : 0);
    if (labels) {
      const Tensor& target = in->operands[part.operand + 1];
      read_run(dtype_of(target), target.data_ptr(), target.strides()[0], static_cast<int64_t>(label.size()),
               label.data());
    }
    for (const int64_t row : part.left)
      labelled.emplace_back(labels ? label[row / part.inner] : part.covered ? row : -1, labelled.size());
  }
  std::sort(labelled.begin(), labelled.end());
  for (int64_t begin = 0, end = 0; begin < size; begin = end) {
    while (end < size && labelled[end].first == labelled[begin].first) ++end;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = order.columns[i] = labelled[i].second;
      order.first[column] = begin;
      order.last[column] = end;
    }
  }
}

// Which rows have the pairs that they need.
void Pairs::count_rows() {
  const int64_t needs = family::needs(options.family);
  counts.assign(count, 1);
  for (int64_t i = 0; needs != wire::kNothing && i < count; ++i) {
    const int64_t alike = order.last[i] - order.first[i];
    counts[i] = alike > static_cast<int64_t>(own) && (needs != wire::kBoth || alike < columns());
  }
}

double Pairs::counted() const {
  Sum sum;
  for (int64_t i = 0; i < count; ++i)
    if (counts[i]) sum.add(weight(i));
  return sum.value();
}

}  // namespace
}  // namespace losskit
