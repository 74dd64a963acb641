// What the files of the embeddings family share: a call, and the numbers of a block's rows.
//
// There are two ways. The usual way, for floats with p = 1, 2 or a cosine: differences in float, their sums in double,
// gradients in float (embeddings_usual.h). Squares of floats are exact in double: they neither overflow it nor exhaust
// its digits. The careful way computes in double (embeddings_careful.h). It serves doubles, every other p, and rows of
// floats whose scale or cosine would cost the usual way digits. Both are exact at every scale, without an epsilon.
#pragma once

#include <memory>

#include "drive.h"
#include "embeddings_careful.h"
#include "embeddings_usual.h"

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

}  // namespace
}  // namespace losskit
