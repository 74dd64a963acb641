// How an op is called without torch's dispatcher: by binding/node.cpp, which has torch's own tensors at hand.
//
// The dispatcher and its lists of boxed values take 1.1 microseconds of a small call, more than most losses'
// arithmetic.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>

namespace losskit {

constexpr int kMostOperands = 8;

// The arguments of an op's schema (op.h), and what it finds. A handle that is given belongs to the callee, one that is
// found to the caller; nullptr is None.
struct DirectCall {
  int64_t kernel, code;
  int operand_count, number_count;
  AtenTensorHandle operands[kMostOperands], weight, sample_weight, mask;
  const double* numbers;

  AtenTensorHandle loss, gradients[kMostOperands];
  int gradient_count;
  int64_t status;
};

using DirectOp = void (*)(DirectCall& call);

}  // namespace losskit
