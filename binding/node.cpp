// The autograd node of the fused CPU kernels in C++. `losskit/kernels/node.py` loads it and says when.
//
// 1. It exists because of small calls: a `torch.autograd.Function` in Python takes longer than all of torch's mse_loss
//    with its backward pass. kernels/fused.py is the same node in Python, which runs where this one cannot.
// 2. torch's C++ interface is not stable: this file is compiled for one torch and one Python, and used with no other.
// 3. It computes calls of plain CPU tensors, and hands over the gradient that the forward pass wrote. For everything
//    else it calls Python: a bad value, a second backward pass, double backward, reduction 'none', scaled halves.
// 4. Calls on a GPU are in repeats.h: Triton launches, and the same node (loss_node.h) is behind the loss.
#include "loss_node.h"
#include "repeats.h"

namespace losskit::binding {
namespace {

// What the calls of a plan have in common.
struct Kernel {
  PyObject* plan;    // whose attribute this is: it lives longer
  std::string name;  // the profiler's word for a call
  DirectOp op;
  int64_t formula, gradients, constants;  // an address; bits of operands
  std::vector<double> numbers;
};

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

// A tensor as an op sees it, which asks for no owner.
void tell(const Tensor& tensor, losskit::Tensor& told) {
  const c10::TensorImpl& own = *tensor.unsafeGetTensorImpl();
  told.handle = torch::aot_inductor::tensor_pointer_to_tensor_handle(const_cast<Tensor*>(&tensor));
  told.of_sizes = own.sizes().data(), told.of_strides = own.strides().data();
  told.data = const_cast<void*>(tensor.const_data_ptr());
  told.dims = own.dim(), told.elements = own.numel(), told.offset = own.storage_offset();
  told.bytes = static_cast<int64_t>(own.unsafe_storage().nbytes());
  told.dtype = static_cast<int32_t>(tensor.scalar_type());
  told.on_cpu = true;  // else it would not be plain
}

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
    const auto* meta = torch::autograd::impl::get_autograd_meta(tensor);
    if (!plain(tensor) || (meta && meta->fw_grad_)) return false;
    tensors.push_back(&tensor);
    elements += tensor.numel();
    return true;
  }
};

// The loss, as yet without a node, and its gradients; in `call.status` what Python must judge.
void run(const Kernel& kernel, int64_t code, const std::vector<double>& numbers, const Given& given, DirectCall& call) {
  call.kernel = kernel.formula, call.code = code;
  call.numbers = numbers.data(), call.number_count = static_cast<int>(numbers.size());
  losskit::Tensor told[3];
  const losskit::Tensor** extras[] = {&call.weight, &call.sample_weight, &call.mask};
  for (int k = 0; k < 3; ++k) {
    *extras[k] = given.tensors[k] ? told + k : nullptr;
    if (given.tensors[k]) tell(*given.tensors[k], told[k]);
  }
  for (int k = 0; k < given.operands; ++k) tell(*given.tensors[3 + k], call.operands[k]);
  call.operand_count = given.operands;
  std::optional<at::RecordFunction> profiled;
  if (auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION)) {
    profiled.emplace(std::move(*callbacks));
    profiled->before(kernel.name, c10::ArrayRef<const c10::IValue>{});
  }
  constexpr int64_t kShort = 16384;  // letting other threads run Python costs 0.1 us
  if (given.elements < kShort) {
    kernel.op(call);
  } else {
    pybind11::gil_scoped_release others;
    kernel.op(call);
  }
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
  std::vector<double> own;
  if (numbers != Py_None) own = py::handle(numbers).cast<std::vector<double>>();
  DirectCall call;
  run(kernel, code, own.empty() ? kernel.numbers : own, given, call);
  const Tensor loss = call.loss ? taken(call.loss) : Tensor();
  variable_list gradients;
  if (call.gradient_count) {
    gradients.resize(given.operands);
    int next = 0;  // behind the last there may be operands that get none
    for (int k = 0; k < given.operands && next < call.gradient_count; ++k)
      if ((options::gradients(code) >> k) & 1) gradients[k] = taken(call.gradients[next++]);
  }
  if (call.status) {
    const py::object extra = py::make_tuple(py::handle(extras[0]), py::handle(extras[1]), py::handle(extras[2]));
    const py::object goes_on = py::reinterpret_steal<py::object>(
        PyObject_CallFunction(judge, "OLOOO", kernel.plan, static_cast<long long>(call.status), wrapped(loss).ptr(),
                              sequence.ptr(), extra.ptr()));
    if (!goes_on) throw py::error_already_set();
    if (goes_on.is(py::handle(Py_False))) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
  if (!given.wanted) return wrapped(loss);

  attach(loss, {Kept(kernel.plan), code, std::move(own), given.tensors[2] != nullptr, {}, {}}, std::move(gradients),
         given.tensors, 3, given.wanted, kernel.constants);
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
}  // namespace losskit::binding

PyMODINIT_FUNC PyInit_node() {
  using namespace losskit::binding;
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
                 PyModule_AddStringConstant(module, "wire", C10_STRINGIZE(LOSSKIT_WIRE)) < 0 ||
                 PyModule_Add(module, "call_layout", PyLong_FromUnsignedLongLong(losskit::kCallLayout)) < 0 ||
                 !add_repeats(module)))
    Py_CLEAR(module);
  return module;
}
