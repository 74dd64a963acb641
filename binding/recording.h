// Calls on a GPU, repeated as `losskit/kernels/gpu/recording.py` has noted them: memory is made, and compiled kernels
// are launched. The launch itself is Triton's, in Python; the rest of a repeated call is here.
#pragma once

#include <torch/csrc/autograd/python_variable.h>
//
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <optional>
#include <vector>

namespace losskit::binding {

using at::Tensor;
using torch::autograd::variable_list;

// What Python has returned, or its error as an exception that may leave the thread.
inline py::object returned(PyObject* result) {
  if (result) return py::reinterpret_steal<py::object>(result);
  python_error error;
  error.persist();
  throw std::move(error);
}

// What calls that are alike have in common.
using Key = std::vector<int64_t>;

inline void tell(Key& key, const Tensor& tensor) {
  key.push_back(tensor.dim());
  key.insert(key.end(), tensor.sizes().begin(), tensor.sizes().end());
  key.insert(key.end(), tensor.strides().begin(), tensor.strides().end());
  key.push_back(static_cast<int64_t>(tensor.scalar_type()));
  key.push_back(static_cast<int64_t>(tensor.device().type()) << 8 | (tensor.device().index() & 255));
  const auto alignment = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) & 15);
  key.push_back(static_cast<int64_t>(tensor.requires_grad()) << 4 | alignment);
}

// A loss (undefined in backward) and the gradients by all operands (undefined where none is wanted).
struct Outputs {
  Tensor loss;
  variable_list gradients;
};

class Recording {
 public:
  // from: a `Recording` of recording.py.
  explicit Recording(const py::handle& from) {
    for (const py::handle one : from.attr("made")) {
      const auto [shape, stride, dtype, zero] = py::cast<std::tuple<Sizes, Sizes, py::object, bool>>(one);
      made_.push_back({shape, stride, reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type, zero});
    }
    for (const py::handle one : from.attr("steps")) {
      const py::object stream = one.attr("stream");
      steps_.push_back({one.attr("launch"), stream.is_none() ? py::object() : stream,
                        py::cast<std::vector<py::object>>(one.attr("arguments")),
                        py::cast<std::vector<std::pair<size_t, size_t>>>(one.attr("tensors"))});
    }
    loss_ = py::cast<std::optional<size_t>>(from.attr("loss"));
    gradients_ = py::cast<std::vector<std::optional<size_t>>>(from.attr("gradients"));
  }

  // The memory that a call like the noted one makes, behind its inputs. Python is not needed for it.
  void make(variable_list& tensors) const {
    const at::AutoDispatchBelowADInplaceOrView below;
    const c10::Device device = tensors[0].device();
    c10::OptionalDeviceGuard guard;
    if (!device.is_cpu()) guard.reset_device(device);
    for (const Made& one : made_) {
      Tensor tensor = at::empty_strided(one.shape, one.stride, at::TensorOptions(device).dtype(one.dtype));
      if (one.zero) tensor.zero_();
      tensors.push_back(std::move(tensor));
    }
  }

  // Launch its kernels, with Python's lock.
  Outputs launch(const variable_list& tensors) const {
    const c10::Device device = tensors[0].device();
    c10::OptionalDeviceGuard guard;
    if (!device.is_cpu()) guard.reset_device(device);
    for (const Step& step : steps_) step.launched(tensors, device);
    const auto chosen = [&](std::optional<size_t> number) { return number ? tensors[*number] : Tensor(); };
    Outputs outputs{chosen(loss_), {}};
    for (const std::optional<size_t> number : gradients_) outputs.gradients.push_back(chosen(number));
    return outputs;
  }

 private:
  using Sizes = std::vector<int64_t>;
  struct Made {
    Sizes shape, stride;
    at::ScalarType dtype;
    bool zero;
  };
  struct Step {
    static constexpr size_t kStream = 3;  // the place of the stream among the arguments of a compiled kernel's launch
    py::object launch, stream;            // stream: what tells a device's; a function of torch has none
    std::vector<py::object> arguments;
    std::vector<std::pair<size_t, size_t>> tensors;  // the place of an argument, the number of the tensor

    void launched(const variable_list& of_call, c10::Device device) const {
      c10::SmallVector<PyObject*, 96> given;
      c10::SmallVector<py::object, 24> own;
      for (const py::object& argument : arguments) given.push_back(argument.ptr());
      const auto put = [&](size_t place, PyObject* object) {
        own.push_back(returned(object));
        given[place] = object;
      };
      if (stream) put(kStream, PyObject_CallOneArg(stream.ptr(), returned(PyLong_FromLong(device.index())).ptr()));
      for (const auto& [place, number] : tensors) {
        const Tensor& tensor = of_call[number];  // Triton takes an address as it is, and asks CUDA about a tensor's
        put(place, stream ? PyLong_FromVoidPtr(tensor.mutable_data_ptr()) : THPVariable_Wrap(tensor));
      }
      returned(PyObject_Vectorcall(launch.ptr(), given.data(), given.size(), nullptr));
    }
  };

  std::vector<Made> made_;
  std::vector<Step> steps_;
  std::optional<size_t> loss_;
  std::vector<std::optional<size_t>> gradients_;
};

// What is noted of a call: forward, and in backward the gradients computed anew, computed into what forward has
// written, or multiplied. As in recording.py.
enum Kind : int64_t { kForward, kAnew, kRewritten, kScaled };

// Calls that are alike. It belongs to Python, and is used with its lock.
struct Known {
  py::object likes;  // the `Template` of recording.py
  py::object call;   // the call without its plan and tensors
  int64_t wanted;    // bits of operands
  Recording forward;
  std::map<Key, Recording> later = {};  // by the kind, and what the upstream gradient is like

  static Key key(int64_t kind, const Tensor& upstream) {
    Key key{kind};
    tell(key, upstream);
    return key;
  }

  // Recordings stay: a pointer to one may be used without the lock.
  const Recording* find(Kind kind, const Tensor& upstream) const {
    const auto found = later.find(key(kind, upstream));
    return found == later.end() ? nullptr : &found->second;
  }
};

}  // namespace losskit::binding
