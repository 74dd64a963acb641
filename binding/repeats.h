// The calls of a plan on a GPU that are repeated, and the node for those that are not: what Python sees of them.
#pragma once

#include <ATen/autocast_mode.h>

#include "loss_node.h"

namespace losskit::binding {
namespace {

int64_t epoch = 0;  // what was noted before it changed is not repeated

// repeats(code, operands, weight) is the loss of a call that is like a noted one, else None.
struct Repeats {
  PyObject_HEAD vectorcallfunc call;
  PyObject* plan;  // whose attribute this is: it lives longer
  std::map<Key, std::pair<Known*, py::object>> known;
};
PyTypeObject repeats_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

// The tensors of a call that may be repeated: the weight (or nullptr), and the operands.
struct Like {
  c10::SmallVector<const Tensor*, 1 + kMostOperands> tensors;
  Key key;

  // False where something looks at the call, or only Python understands it.
  bool read(int64_t code, PyObject* operands, PyObject* weight) {
    const auto keys = c10::impl::tls_local_dispatch_key_set();
    const auto excluded = keys.excluded_.raw_repr() & (kPlain.raw_repr() | kPlainOnGpu.raw_repr());
    if (keys.included_.raw_repr() != c10::default_included_set.raw_repr() || excluded != 0) return false;
    const bool differentiates = at::GradMode::is_enabled();
    key.reserve(64);
    key = {epoch, code, differentiates, weight != Py_None};
    tensors.push_back(nullptr);
    if (weight != Py_None) {
      if (!take(weight) || (differentiates && tensors.back()->requires_grad())) return false;
      tensors.erase(tensors.begin());
    }
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(operands); ++k)
      if (!take(PySequence_Fast_GET_ITEM(operands, k))) return false;
    if (tensors.size() == 1) return false;
    key.push_back(at::autocast::is_autocast_enabled(tensors[1]->device().type()));
    return true;
  }

  bool take(PyObject* object) {
    if (!THPVariable_CheckExact(object)) return false;
    const Tensor& tensor = THPVariable_Unpack(object);
    if (!(plain_on_gpu(tensor) || plain(tensor)) || tensor._fw_grad(0).defined()) return false;
    tensors.push_back(&tensor);
    tell(key, tensor);
    return true;
  }
};

py::object repeated(const Repeats& repeats, int64_t code, PyObject* operands, PyObject* weight) {
  Like like;
  const py::object sequence = returned(PySequence_Fast(operands, "operands"));
  if (watched() || !like.read(code, sequence.ptr(), weight)) return py::none();
  const auto found = repeats.known.find(like.key);
  if (found == repeats.known.end()) return py::none();
  const auto [known, object] = found->second;  // a copy: another thread may note such a call anew
  variable_list tensors;
  for (const Tensor* tensor : like.tensors)
    if (tensor) tensors.push_back(*tensor);
  if (tensors[0].is_cpu()) {
    known->forward.make(tensors);
  } else {  // an allocation may wait for another thread
    pybind11::gil_scoped_release others;
    known->forward.make(tensors);
  }
  Outputs outputs = known->forward.launch(tensors);
  if (known->wanted) {
    c10::SmallVector<const Tensor*, 4 + kMostOperands> saved(4, nullptr);
    saved[0] = like.tensors[0];
    saved.append(like.tensors.begin() + 1, like.tensors.end());
    if (std::none_of(outputs.gradients.begin(), outputs.gradients.end(), [](auto& x) { return x.defined(); }))
      outputs.gradients.clear();
    attach(outputs.loss, {Kept(repeats.plan), known->wanted, {}, false, Kept(known->call.ptr()), Kept(object.ptr())},
           std::move(outputs.gradients), saved, 4, known->wanted);
  }
  return wrapped(outputs.loss);
}

// --------------------------------------------------------------------------------------------------------
// Python's view

// By position.
PyObject* repeated_from_python(PyObject* self, PyObject* const* given, size_t flags, PyObject*) {
  HANDLE_TH_ERRORS
  if (PyVectorcall_NARGS(flags) != 3) {
    PyErr_SetString(PyExc_TypeError, "code, operands and weight are given");
    return nullptr;
  }
  const int64_t code = PyLong_AsLongLong(given[0]);
  if (code == -1 && PyErr_Occurred()) return nullptr;
  return repeated(*reinterpret_cast<Repeats*>(self), code, given[1], given[2]).release().ptr();
  END_HANDLE_TH_ERRORS
}

// note(code, operands, weight, template, call, wanted, recording): calls like this one are repeated from now on.
// Returns what is known of them, None where they cannot be.
PyObject* note(PyObject* self, PyObject* arguments) {
  HANDLE_TH_ERRORS
  long long code, wanted;
  PyObject *operands, *weight, *likes, *call, *recording;
  if (!PyArg_ParseTuple(arguments, "LOOOOLO", &code, &operands, &weight, &likes, &call, &wanted, &recording))
    return nullptr;
  Like like;
  const py::object sequence = returned(PySequence_Fast(operands, "operands"));
  if (!like.read(code, sequence.ptr(), weight)) Py_RETURN_NONE;
  auto known = std::make_unique<Known>(Known{py::reinterpret_borrow<py::object>(likes),
                                             py::reinterpret_borrow<py::object>(call), wanted, Recording(recording)});
  Known* pointer = known.get();
  const py::object object = py::cast(std::move(known));
  reinterpret_cast<Repeats*>(self)->known.insert_or_assign(like.key, std::pair(pointer, object));
  return py::object(object).release().ptr();
  END_HANDLE_TH_ERRORS
}

// Repeats(plan)
PyObject* made_repeats(PyTypeObject* type, PyObject* arguments, PyObject*) {
  PyObject* plan;
  if (!PyArg_ParseTuple(arguments, "O", &plan)) return nullptr;
  auto* self = reinterpret_cast<Repeats*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->call = repeated_from_python;
  self->plan = plan;
  new (&self->known) decltype(self->known)();
  return reinterpret_cast<PyObject*>(self);
}

void destroyed_repeats(PyObject* self) {
  using Map = decltype(Repeats::known);
  reinterpret_cast<Repeats*>(self)->known.~Map();
  Py_TYPE(self)->tp_free(self);
}

// attach(plan, wanted, call, known, loss, gradients, extras, operands): the loss with its node; extras: weight,
// sample_weight, mask, normalizer.
PyObject* attached(PyObject*, PyObject* arguments) {
  HANDLE_TH_ERRORS
  PyObject *plan, *call, *known, *loss, *gradients, *extras, *operands;
  long long wanted;
  if (!PyArg_ParseTuple(arguments, "OLOOOOOO", &plan, &wanted, &call, &known, &loss, &gradients, &extras, &operands))
    return nullptr;
  std::vector<const Tensor*> saved;
  for (PyObject* several : {extras, operands})
    for (const py::handle one : py::reinterpret_steal<py::object>(PySequence_Fast(several, "tensors")))
      saved.push_back(one.is_none() ? nullptr : &THPVariable_Unpack(one.ptr()));
  variable_list early;
  for (const py::handle one : py::reinterpret_borrow<py::object>(gradients))
    early.push_back(one.is_none() ? Tensor() : THPVariable_Unpack(one.ptr()));
  const auto kept = [](PyObject* object) { return Kept(object == Py_None ? nullptr : object); };
  attach(THPVariable_Unpack(loss), {kept(plan), wanted, {}, false, kept(call), kept(known)}, std::move(early), saved,
         PySequence_Size(extras), wanted);
  Py_INCREF(loss);
  return loss;
  END_HANDLE_TH_ERRORS
}

// set_up_gpu(again, rewritten, scaled, small, hooks): the functions of kernels/gpu/autograd.py; see OnGpu.
PyObject* set_up_gpu(PyObject*, PyObject* arguments) {
  long long small;
  if (!PyArg_ParseTuple(arguments, "OOOLO!", &on_gpu.again, &on_gpu.rewritten, &on_gpu.scaled, &small, &PyTuple_Type,
                        &on_gpu.hooks))
    return nullptr;
  on_gpu.small = small;
  for (PyObject* kept : {on_gpu.again, on_gpu.rewritten, on_gpu.scaled, on_gpu.hooks}) Py_INCREF(kept);
  Py_RETURN_NONE;
}

// forget(): what has been noted is not repeated.
PyObject* forget(PyObject*, PyObject*) {
  ++epoch;
  Py_RETURN_NONE;
}

PyMethodDef repeats_methods[] = {{"note", note, METH_VARARGS, nullptr}, {}};
PyMethodDef gpu_functions[] = {{"set_up_gpu", set_up_gpu, METH_VARARGS, nullptr},
                               {"attach", attached, METH_VARARGS, nullptr},
                               {"forget", forget, METH_NOARGS, nullptr},
                               {}};

bool add_repeats(PyObject* module) {
  repeats_type.tp_name = "losskit.kernels.node.Repeats";
  repeats_type.tp_basicsize = sizeof(Repeats);
  repeats_type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL;
  repeats_type.tp_vectorcall_offset = offsetof(Repeats, call);
  repeats_type.tp_call = PyVectorcall_Call;
  repeats_type.tp_new = made_repeats;
  repeats_type.tp_dealloc = destroyed_repeats;
  repeats_type.tp_methods = repeats_methods;
  if (PyType_Ready(&repeats_type) < 0 || PyModule_AddFunctions(module, gpu_functions) < 0 ||
      PyModule_AddObjectRef(module, "Repeats", reinterpret_cast<PyObject*>(&repeats_type)) < 0)
    return false;
  py::class_<Known>(py::handle(module), "Known", py::module_local())
      .def_readonly("template", &Known::likes)
      .def("note", [](Known& known, int64_t kind, const Tensor& upstream, const py::handle& recording) {
        known.later.emplace(Known::key(kind, upstream), Recording(recording));
      });
  return true;
}

}  // namespace
}  // namespace losskit::binding
