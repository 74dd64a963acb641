// The autograd node of the fused kernels: what a call leaves for its backward pass, and that pass. See node.cpp.
#pragma once

#include <torch/csrc/autograd/python_variable.h>
//
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>
#include <torch/version.h>

#include <bit>
#include <utility>

#include "direct.h"
#include "generated/wire.h"
#include "recording.h"

namespace losskit::binding {

using losskit::DirectCall;
using losskit::DirectOp;
using torch::autograd::SavedVariable;
namespace options = losskit::wire::options;

// The lowest bit of a field of `code`.
template <class Field> constexpr int64_t lowest(Field field) {
  int64_t bit = 1;
  while (!field(bit)) bit <<= 1;
  return bit;
}
constexpr int64_t kGradients = lowest(options::gradients);

inline PyObject *judge, *times, *again;  // of kernels/fused.py

// Of kernels/gpu/autograd.py.
struct OnGpu {
  PyObject *again, *rewritten, *scaled;
  int64_t small;    // elements of a gradient that torch multiplies
  PyObject* hooks;  // lists of what Triton calls before and after a launch
};
inline OnGpu on_gpu;

// Whether a profiler wants to see Triton's launches: then nothing is repeated.
inline bool watched() {
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(on_gpu.hooks); ++k)
    if (PyList_GET_SIZE(PyTuple_GET_ITEM(on_gpu.hooks, k))) return true;
  return false;
}

inline py::object wrapped(const Tensor& tensor) {
  return tensor.defined() ? py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor)) : py::none();
}

inline py::list wrapped(const variable_list& tensors) {
  py::list list;
  for (const Tensor& tensor : tensors) list.append(wrapped(tensor));
  return list;
}

// --------------------------------------------------------------------------------------------------------
// Backward

// An object of Python that a node keeps. A node may be copied and die where Python's lock is not held; `SafePyObject`
// would take the lock anew each time, and a shared pointer to it asks for memory.
class Kept {
 public:
  Kept() = default;
  explicit Kept(PyObject* object) : object_(object) { Py_XINCREF(object_); }  // with the lock
  Kept(Kept&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Kept(const Kept& other) : object_(other.object_) {
    if (object_) locked([this] { Py_INCREF(object_); });
  }
  Kept& operator=(Kept other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Kept() {
    if (object_ && Py_IsInitialized()) locked([this] { Py_DECREF(object_); });
  }
  explicit operator bool() const { return object_ != nullptr; }
  PyObject* get() const { return object_ ? object_ : Py_None; }

 private:
  PyObject* object_ = nullptr;

  template <class Work> static void locked(const Work& work) {
    if (PyGILState_Check()) return work();
    pybind11::gil_scoped_acquire gil;
    work();
  }
};

// What a call leaves for its backward pass.
struct Left {
  Kept plan;
  int64_t code;
  std::vector<double> numbers;  // those of the plan where there are none
  bool masked;
  // A call on a GPU: the call without its plan and tensors, and what is known of those like it, or nothing. `code` is
  // the bits of the operands whose gradients are wanted.
  Kept call, known;
};

// Gradients from a function of Python: by the operands that want one, or by all operands of a call on a GPU.
inline variable_list asked(PyObject* function, const Left& left, const variable_list& tensors, const Tensor& upstream) {
  pybind11::gil_scoped_acquire gil;
  const py::handle plan = left.plan.get(), known = left.known.get();
  const py::object likes = known.is_none() ? py::object(py::none()) : py::object(known.attr("template"));
  const py::object numbers = left.call || !left.numbers.empty() ? py::cast(left.numbers) : plan.attr("numbers");
  const py::tuple call = left.call
                             ? py::tuple(py::make_tuple(plan, left.code, py::handle(left.call.get()), likes, known))
                             : py::tuple(py::make_tuple(plan, left.code, numbers, left.masked));
  const auto found = returned(
      PyObject_CallFunctionObjArgs(function, call.ptr(), wrapped(tensors).ptr(), wrapped(upstream).ptr(), nullptr));
  variable_list result;
  for (const py::handle one : found) result.push_back(one.is_none() ? Tensor() : THPVariable_Unpack(one.ptr()));
  return result;
}

// A tensor that nothing has wrapped or transformed, and that lies in memory as it says.
constexpr c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                      c10::DispatchKey::AutogradCPU});
constexpr c10::DispatchKeySet kPlainOnGpu({c10::DispatchKey::CUDA, c10::DispatchKey::ADInplaceOrView,
                                           c10::DispatchKey::AutogradCUDA});
inline bool plain(const Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.key_set().remove(c10::DispatchKey::AutocastCPU);
  return (keys.raw_repr() & ~kPlain.raw_repr()) == 0 && keys.has(c10::DispatchKey::CPU);
}
inline bool plain_on_gpu(const Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.key_set().remove(c10::DispatchKey::AutocastCUDA);
  return (keys.raw_repr() & ~kPlainOnGpu.raw_repr()) == 0 && keys.has(c10::DispatchKey::CUDA);
}

constexpr int64_t kTogether = 16384;  // elements; torch multiplies so small gradients in one launch

struct LossNode final : torch::autograd::Node {
  Left left;
  variable_list gradients;           // by operand, until they are handed over
  std::vector<SavedVariable> saved;  // weight, sample_weight, mask, on a GPU the normalizer, operands: those given
  uint32_t given = 0;                // bits of them
  int places = 0;

  explicit LossNode(torch::autograd::edge_list&& edges) : Node(std::move(edges)) {}

  std::string name() const override { return "FusedBackward"; }

  variable_list apply(variable_list&& inputs) override {
    const std::lock_guard<std::mutex> alone(mutex_);
    const Tensor& upstream = inputs[0];
    if (!upstream.defined()) return variable_list(num_outputs());
    if (left.call) return placed(found_on_gpu(upstream));
    if (gradients.empty() || at::GradMode::is_enabled() || !plain(upstream))
      return placed(asked(again, left, unpacked(), upstream));
    variable_list found = std::move(gradients);
    gradients.clear();
    if (options::reduction(left.code) == losskit::wire::kElements) {
      std::erase_if(found, [](const Tensor& gradient) { return !gradient.defined(); });
      return placed(asked(times, left, found, upstream));
    }
    // What lies here is read without torch's dispatcher.
    const double scale = upstream.scalar_type() == at::kFloat ? static_cast<double>(*upstream.const_data_ptr<float>())
                                                              : upstream.item().toDouble();
    if (scale == 1.0) return found;
    for (const Tensor& gradient : found)  // a half times 1/N may have underflowed, despite a loss scaler
      if (gradient.defined() && at::isReducedFloatingType(gradient.scalar_type()))
        return placed(asked(again, left, unpacked(), upstream));
    for (Tensor& gradient : found)
      if (gradient.defined()) gradient.mul_(scale);
    return found;
  }

  // The host does not wait for a GPU: what the upstream gradient is, kernels find out.
  variable_list found_on_gpu(const Tensor& upstream) {
    const bool plainly = !at::GradMode::is_enabled() && (plain_on_gpu(upstream) || plain(upstream));
    if (gradients.empty() || !plainly) return later(kAnew, on_gpu.again, unpacked(), upstream, plainly);
    variable_list early = std::move(gradients), given;
    gradients.clear();
    early.resize(num_outputs());
    bool halves = false, small = true, together = true;
    for (const Tensor& gradient : early) {
      if (!gradient.defined()) continue;
      given.push_back(gradient);
      halves |= gradient.scalar_type() == at::kHalf;  // 1/N may have underflowed, despite a loss scaler
      small &= gradient.numel() <= on_gpu.small && !at::isReducedFloatingType(gradient.scalar_type());
      together &= gradient.numel() <= kTogether;
    }
    if (halves) {
      variable_list tensors = unpacked();
      tensors.insert(tensors.end(), early.begin(), early.end());
      return later(kRewritten, on_gpu.rewritten, tensors, upstream, true);
    }
    if (!small) return later(kScaled, on_gpu.scaled, early, upstream, true);
    const at::AutoDispatchBelowADInplaceOrView below;
    if (together && given.size() > 1) {
      at::_foreach_mul_(given, upstream);
    } else {
      for (Tensor& gradient : given) gradient.mul_(upstream);
    }
    return early;
  }

  // As a call like this one did before, else by Python.
  variable_list later(Kind kind, PyObject* function, const variable_list& tensors, const Tensor& upstream,
                      bool plainly) {
    const Recording* recording = nullptr;
    if (plainly && left.known) {
      pybind11::gil_scoped_acquire gil;
      if (!watched()) recording = py::cast<const Known&>(py::handle(left.known.get())).find(kind, upstream);
    }
    if (!recording) return asked(function, left, tensors, upstream);
    variable_list of_call;
    for (const Tensor& tensor : tensors)
      if (tensor.defined()) of_call.push_back(tensor);
    of_call.push_back(upstream);
    recording->make(of_call);
    pybind11::gil_scoped_acquire gil;
    return recording->launch(of_call).gradients;
  }

  variable_list placed(variable_list&& found) const { return placed(std::move(found), left, num_outputs()); }

  // Gradients at the places of the operands that want one. Behind the last there may be operands that get none.
  static variable_list placed(variable_list&& found, const Left& left, size_t operands) {
    found.resize(operands);
    if (left.call) return std::move(found);
    variable_list result(operands);
    auto next = found.begin();
    for (size_t k = 0; k < operands; ++k)
      if ((options::gradients(left.code) >> k) & 1) result[k] = std::move(*next++);
    return result;
  }

  variable_list unpacked() const {
    variable_list tensors(places);
    auto next = saved.begin();
    for (int k = 0; k < places; ++k)
      if ((given >> k) & 1) tensors[k] = (next++)->unpack();
    return tensors;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> alone(mutex_);
    gradients.clear();
    for (SavedVariable& one : saved) one.reset_data();
  }

  // Compiled autograd calls this node as one opaque function of the saved tensors.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<int64_t>(left.plan.get()));
    if (left.call) {
      pybind11::gil_scoped_acquire gil;
      args.collect(static_cast<int64_t>(PyObject_Hash(left.call.get())));
    }
    args.collect(left.code);
    args.collect(left.numbers);
    args.collect(saved, /*is_output=*/false);
  }

  variable_list apply_with_saved(const variable_list& inputs,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    using torch::dynamo::autograd::getPyCompilerInterface;
    using torch::dynamo::autograd::IValuePacker;
    swap.before(saved);
    std::vector<at::TypePtr> schema;
    std::vector<at::IValue> packed;
    for (Tensor& tensor : unpacked()) {
      schema.push_back(at::TensorType::get());
      packed.emplace_back(std::move(tensor));
    }
    const auto edges = IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
        torch::dynamo::autograd::get_input_metadata(next_edges()));
    const auto& compiler = getPyCompilerInterface();
    const auto run = [left = left, operands = num_outputs()](const variable_list& upstream,
                                                             const std::vector<c10::IValue>& tensors) {
      variable_list of_call;
      for (const c10::IValue& tensor : tensors) of_call.push_back(tensor.toTensor());
      return placed(asked(left.call ? on_gpu.again : again, left, of_call, upstream[0]), left, operands);
    };
    const std::string bound = compiler->bind_function(swap.get_py_compiler(), name(), run, schema,
                                                      /*is_custom_function=*/true, /*is_traceable=*/false);
    variable_list found =
        compiler->call_function(swap.get_py_compiler(), "apply_functional", bound, inputs, packed, edges);
    swap.after(saved);
    return found;
  }
};

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13  // nodes are counted by themselves
inline auto new_node(torch::autograd::edge_list&& edges) { return c10::make_intrusive<LossNode>(std::move(edges)); }
#else
inline auto new_node(torch::autograd::edge_list&& edges) {
  return std::shared_ptr<LossNode>(new LossNode(std::move(edges)), torch::autograd::deleteNode);
}
#endif

// Put the node behind a loss that was computed. gradients: by operand, or none yet. tensors: as the node saves them,
// nullptr for None; `extras` are not operands. constants: bits of the operands that have no gradient.
inline void attach(const Tensor& loss, Left left, variable_list gradients, c10::ArrayRef<const Tensor*> tensors,
                   size_t extras, int64_t wanted, int64_t constants = 0) {
  torch::autograd::edge_list edges(tensors.size() - extras);
  for (size_t k = 0; k < edges.size(); ++k)
    if ((wanted >> k) & 1) edges[k] = torch::autograd::impl::gradient_edge(*tensors[extras + k]);
  auto node = new_node(std::move(edges));
  node->left = std::move(left);
  node->gradients = std::move(gradients);
  node->places = static_cast<int>(tensors.size());
  for (size_t k = 0; k < tensors.size(); ++k) node->given |= static_cast<uint32_t>(tensors[k] != nullptr) << k;
  node->saved.reserve(std::popcount(node->given));
  for (size_t k = 0; k < tensors.size(); ++k) {
    if (!tensors[k]) continue;
    const bool constant = k >= extras && ((constants >> (k - extras)) & 1) && tensors[k]->requires_grad();
    if (constant)
      node->saved.emplace_back(tensors[k]->detach(), /*is_output=*/false);
    else
      node->saved.emplace_back(*tensors[k], /*is_output=*/false);
  }
  torch::autograd::set_history(loss, node);
}

}  // namespace losskit::binding
