// The autograd node of the fused CPU kernels in C++. `losskit/kernels/node.py` loads it and says when.
//
// 1. It exists because of small calls: a `torch.autograd.Function` in Python takes longer than all of torch's mse_loss
//    with its backward pass. kernels/fused.py is the same node in Python, which runs where this one cannot.
// 2. torch's C++ interface is not stable: this file is compiled for one torch and one Python, and used with no other.
// 3. It computes calls of plain CPU tensors, and hands over the gradient that the forward pass wrote. For everything
//    else it calls Python: a bad value, a second backward pass, double backward, reduction 'none', scaled halves.
#include <torch/csrc/autograd/python_variable.h>
//
#include <ATen/core/dispatch/Dispatcher.h>
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

#include "direct.h"
#include "generated/wire.h"

namespace {

using at::Tensor;
using losskit::DirectCall;
using losskit::DirectOp;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
namespace options = losskit::wire::options;

// The lowest bit of a field of `code`.
template <class Field> constexpr int64_t lowest(Field field) {
  int64_t bit = 1;
  while (!field(bit)) bit <<= 1;
  return bit;
}
constexpr int64_t kGradients = lowest(options::gradients);

PyObject *judge, *times, *again;  // of kernels/fused.py

// What the calls of a plan have in common.
struct Kernel {
  PyObject* plan;    // whose attribute this is: it lives longer
  std::string name;  // the profiler's word for a call
  DirectOp op;
  int64_t formula, gradients, constants;  // an address; bits of operands
  std::vector<double> numbers;
};

py::object wrapped(const Tensor& tensor) {
  return tensor.defined() ? py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor)) : py::none();
}

py::list wrapped(const variable_list& tensors) {
  py::list list;
  for (const Tensor& tensor : tensors) list.append(wrapped(tensor));
  return list;
}

// --------------------------------------------------------------------------------------------------------
// Backward

// What a call leaves for its backward pass.
struct Left {
  std::shared_ptr<c10::SafePyObject> plan;
  int64_t code;
  std::vector<double> numbers;
  bool masked;
};

// Gradients by the operands that want one, from a function of kernels/fused.py.
variable_list asked(PyObject* function, const Left& left, const variable_list& tensors, const Tensor& upstream) {
  pybind11::gil_scoped_acquire gil;
  PyObject* plan = left.plan->ptr(getPyInterpreter());
  const auto call = py::make_tuple(py::handle(plan), left.code, left.numbers, left.masked);
  const auto found = py::reinterpret_steal<py::object>(
      PyObject_CallFunctionObjArgs(function, call.ptr(), wrapped(tensors).ptr(), wrapped(upstream).ptr(), nullptr));
  if (!found) {
    python_error error;
    error.persist();
    throw std::move(error);
  }
  variable_list result;
  for (const py::handle gradient : found) result.push_back(THPVariable_Unpack(gradient.ptr()));
  return result;
}

// A tensor that nothing has wrapped or transformed, and that lies in memory as it says.
constexpr c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                      c10::DispatchKey::AutogradCPU});
bool plain(const Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.key_set().remove(c10::DispatchKey::AutocastCPU);
  return (keys.raw_repr() & ~kPlain.raw_repr()) == 0 && keys.has(c10::DispatchKey::CPU);
}

struct LossNode final : torch::autograd::Node {
  Left left;
  variable_list gradients;           // until they are handed over
  std::vector<SavedVariable> saved;  // weight, sample_weight, mask, operands

  explicit LossNode(torch::autograd::edge_list&& edges) : Node(std::move(edges)) {}

  std::string name() const override { return "FusedBackward"; }

  variable_list apply(variable_list&& inputs) override {
    const std::lock_guard<std::mutex> alone(mutex_);
    const Tensor& upstream = inputs[0];
    if (!upstream.defined()) return variable_list(num_outputs());
    if (gradients.empty() || at::GradMode::is_enabled() || !plain(upstream))
      return placed(asked(again, left, unpacked(), upstream));
    variable_list found = std::move(gradients);
    gradients.clear();
    if (options::reduction(left.code) == losskit::wire::kElements) return placed(asked(times, left, found, upstream));
    const double scale = upstream.item().toDouble();
    if (scale == 1.0) return placed(std::move(found));
    for (const Tensor& gradient : found)  // a half times 1/N may have underflowed, despite a loss scaler
      if (at::isReducedFloatingType(gradient.scalar_type())) return placed(asked(again, left, unpacked(), upstream));
    for (Tensor& gradient : found) gradient.mul_(scale);
    return placed(std::move(found));
  }

  // Gradients at the places of the operands that want one. Behind the last there may be operands that get none.
  variable_list placed(variable_list&& found) const {
    variable_list result(num_outputs());
    auto next = found.begin();
    for (size_t k = 0; k < result.size() && next != found.end(); ++k)
      if ((options::gradients(left.code) >> k) & 1) result[k] = std::move(*next++);
    return result;
  }

  variable_list unpacked() const {
    variable_list tensors;
    for (const SavedVariable& one : saved) tensors.push_back(one.unpack());
    return tensors;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> alone(mutex_);
    gradients.clear();
    for (SavedVariable& one : saved) one.reset_data();
  }

  // Compiled autograd calls this node as one opaque function of the saved tensors.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<int64_t>(left.plan->ptr(getPyInterpreter())));
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
    const auto run = [left = left](const variable_list& upstream, const std::vector<c10::IValue>& tensors) {
      variable_list of_call;
      for (const c10::IValue& tensor : tensors) of_call.push_back(tensor.toTensor());
      return asked(again, left, of_call, upstream[0]);
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
auto new_node(torch::autograd::edge_list&& edges) { return c10::make_intrusive<LossNode>(std::move(edges)); }
#else
auto new_node(torch::autograd::edge_list&& edges) {
  return std::shared_ptr<LossNode>(new LossNode(std::move(edges)), torch::autograd::deleteNode);
}
#endif

// --------------------------------------------------------------------------------------------------------
// Forward

// Whether nothing looks at what runs: no transform, mode, tracer. Inference mode is what a call without gradients is.
bool unobserved() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  c10::DispatchKeySet included = keys.included_, excluded = keys.excluded_;
  if (c10::InferenceMode::is_enabled()) {
    included = included.add(c10::DispatchKey::ADInplaceOrView);
    excluded = excluded - c10::autograd_dispatch_keyset;
  }
  return included.raw_repr() == c10::default_included_set.raw_repr() && (excluded.raw_repr() & kPlain.raw_repr()) == 0;
}

AtenTensorHandle handed(const Tensor& tensor) { return torch::aot_inductor::new_tensor_handle(Tensor(tensor)); }

Tensor taken(AtenTensorHandle handle) {
  Tensor* pointer = torch::aot_inductor::tensor_handle_to_tensor_pointer(handle);
  Tensor tensor = std::move(*pointer);
  delete pointer;
  return tensor;
}

// A call's tensors: weight, sample_weight, mask and the operands, as the node saves them.
struct Given {
  c10::SmallVector<const Tensor*, 3 + losskit::kMostOperands> tensors;  // nullptr: None
  int operands = 0;
  int64_t elements = 0, wanted = 0;

  // False where there is something that only Python understands.
  bool read(PyObject* object, bool optional) {
    if (optional && object == Py_None) {
      tensors.push_back(nullptr);
      return true;
    }
    if (!THPVariable_CheckExact(object)) return false;
    const Tensor& tensor = THPVariable_Unpack(object);
    if (!plain(tensor) || tensor._fw_grad(0).defined()) return false;
    tensors.push_back(&tensor);
    elements += tensor.numel();
    return true;
  }
};

// The loss, as yet without a node, and its gradients; in `found.status` what Python must judge.
DirectCall called(const Kernel& kernel, int64_t code, const std::vector<double>& numbers, const Given& given) {
  DirectCall call{};
  call.kernel = kernel.formula, call.code = code;
  call.numbers = numbers.data(), call.number_count = static_cast<int>(numbers.size());
  AtenTensorHandle* extras[] = {&call.weight, &call.sample_weight, &call.mask};
  for (int k = 0; k < 3; ++k) *extras[k] = given.tensors[k] ? handed(*given.tensors[k]) : nullptr;
  for (int k = 0; k < given.operands; ++k) call.operands[k] = handed(*given.tensors[3 + k]);
  call.operand_count = given.operands;
  RECORD_FUNCTION(kernel.name, c10::ArrayRef<const c10::IValue>{});
  constexpr int64_t kShort = 16384;  // letting other threads run Python costs 0.1 us
  if (given.elements < kShort) {
    kernel.op(call);
  } else {
    pybind11::gil_scoped_release others;
    kernel.op(call);
  }
  return call;
}

// The loss with its node; None where Python must look at the call; NotImplemented where the op declines it.
py::object loss_of(const Kernel& kernel, int64_t code, PyObject* operands, PyObject* const* extras, PyObject* numbers) {
  Given given;
  if (!unobserved()) return py::none();
  for (int k = 0; k < 3; ++k)
    if (!given.read(extras[k], true)) return py::none();
  const py::object sequence = py::reinterpret_steal<py::object>(PySequence_Fast(operands, "operands"));
  given.operands = static_cast<int>(PySequence_Fast_GET_SIZE(sequence.ptr()));
  if (given.operands == 0 || given.operands > losskit::kMostOperands) return py::none();
  for (int k = 0; k < given.operands; ++k)
    if (!given.read(PySequence_Fast_GET_ITEM(sequence.ptr(), k), false)) return py::none();
  const Tensor* const* tensors = given.tensors.data() + 3;
  // The dtype of the loss of halves depends on autocast.
  if (at::isReducedFloatingType(tensors[0]->scalar_type()) && !options::result(code)) return py::none();
  if (at::GradMode::is_enabled()) {
    for (int k = 0; k < 3; ++k)
      if (given.tensors[k] && given.tensors[k]->requires_grad()) return py::none();
    for (int k = 0; k < given.operands; ++k) given.wanted |= static_cast<int64_t>(tensors[k]->requires_grad()) << k;
    given.wanted &= ~kernel.constants;
    if (given.wanted & ~kernel.gradients) return py::none();
    code |= given.wanted * kGradients;
  }
  const std::vector<double> own =
      numbers == Py_None ? std::vector<double>() : py::handle(numbers).cast<std::vector<double>>();
  DirectCall call = called(kernel, code, own.empty() ? kernel.numbers : own, given);
  Tensor loss = call.loss ? taken(call.loss) : Tensor();
  variable_list gradients;
  for (int k = 0; k < call.gradient_count; ++k) gradients.push_back(taken(call.gradients[k]));
  if (call.status) {
    const py::object extra = py::make_tuple(py::handle(extras[0]), py::handle(extras[1]), py::handle(extras[2]));
    const py::object goes_on = py::reinterpret_steal<py::object>(
        PyObject_CallFunction(judge, "OLOOO", kernel.plan, static_cast<long long>(call.status), wrapped(loss).ptr(),
                              sequence.ptr(), extra.ptr()));
    if (!goes_on) throw py::error_already_set();
    if (goes_on.is(py::handle(Py_False))) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
  if (!given.wanted) return wrapped(loss);

  torch::autograd::edge_list edges(given.operands);
  for (int k = 0; k < given.operands; ++k)
    if ((given.wanted >> k) & 1) edges[k] = torch::autograd::impl::gradient_edge(*tensors[k]);
  auto node = new_node(std::move(edges));
  Py_INCREF(kernel.plan);
  const auto plan = std::make_shared<c10::SafePyObject>(kernel.plan, getPyInterpreter());
  node->left = {plan, code, own.empty() ? kernel.numbers : own, given.tensors[2] != nullptr};
  node->gradients = std::move(gradients);
  node->saved.reserve(given.tensors.size());
  for (size_t k = 0; k < given.tensors.size(); ++k) {
    const bool constant = k >= 3 && ((kernel.constants >> (k - 3)) & 1);
    if (!given.tensors[k])
      node->saved.emplace_back();
    else
      node->saved.emplace_back(constant ? given.tensors[k]->detach() : *given.tensors[k], /*is_output=*/false);
  }
  torch::autograd::set_history(loss, node);
  return wrapped(loss);
}

// --------------------------------------------------------------------------------------------------------
// Python's view

struct Callable {
  PyObject_HEAD vectorcallfunc call;
  Kernel kernel;
};

// kernel(code, operands, weight, sample_weight=None, mask=None, numbers=None), by position.
PyObject* called_from_python(PyObject* self, PyObject* const* given, size_t flags, PyObject*) {
  HANDLE_TH_ERRORS
  const Py_ssize_t count = PyVectorcall_NARGS(flags);
  PyObject* arguments[] = {Py_None, Py_None, Py_None, Py_None, Py_None, Py_None};
  if (count < 3 || count > 6) {
    PyErr_SetString(PyExc_TypeError, "a kernel takes 3 to 6 arguments");
    return nullptr;
  }
  std::copy(given, given + count, arguments);
  const int64_t code = PyLong_AsLongLong(arguments[0]);
  if (code == -1 && PyErr_Occurred()) return nullptr;
  return loss_of(reinterpret_cast<Callable*>(self)->kernel, code, arguments[1], arguments + 2, arguments[5])
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

// Kernel(plan, name, op, formula, gradients, constants, numbers)
PyObject* made(PyTypeObject* type, PyObject* arguments, PyObject*) {
  HANDLE_TH_ERRORS
  PyObject *plan, *numbers;
  const char* name;
  long long op, formula, gradients, constants;
  if (!PyArg_ParseTuple(arguments, "OsLLLLO", &plan, &name, &op, &formula, &gradients, &constants, &numbers))
    return nullptr;
  auto values = py::handle(numbers).cast<std::vector<double>>();
  auto* self = reinterpret_cast<Callable*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->call = called_from_python;
  new (&self->kernel)
      Kernel{plan, name, reinterpret_cast<DirectOp>(op), formula, gradients, constants, std::move(values)};
  return reinterpret_cast<PyObject*>(self);
  END_HANDLE_TH_ERRORS
}

void destroyed(PyObject* self) {
  reinterpret_cast<Callable*>(self)->kernel.~Kernel();
  Py_TYPE(self)->tp_free(self);
}

PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};

// set_up(judge, times, again): the functions of kernels/fused.py.
PyObject* set_up(PyObject*, PyObject* arguments) {
  if (!PyArg_ParseTuple(arguments, "OOO", &judge, &times, &again)) return nullptr;
  for (PyObject* function : {judge, times, again}) Py_INCREF(function);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {{"set_up", set_up, METH_VARARGS, nullptr}, {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "node", nullptr, -1, functions};

}  // namespace

PyMODINIT_FUNC PyInit_node() {
  type.tp_name = "losskit.kernels.node.Kernel";
  type.tp_basicsize = sizeof(Callable);
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL;
  type.tp_vectorcall_offset = offsetof(Callable, call);
  type.tp_call = PyVectorcall_Call;
  type.tp_new = made;
  type.tp_dealloc = destroyed;
  if (PyType_Ready(&type) < 0) return nullptr;
  PyObject* module = PyModule_Create(&definition);
  if (module && (PyModule_AddObjectRef(module, "Kernel", reinterpret_cast<PyObject*>(&type)) < 0 ||
                 PyModule_AddStringConstant(module, "wire", C10_STRINGIZE(LOSSKIT_WIRE)) < 0))
    Py_CLEAR(module);
  return module;
}
