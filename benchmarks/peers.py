"""The libraries that are timed, each as a call that does one forward and backward of a case.

1. torch eager, torch.compile, losskit, and, where they are installed, JAX with optax: what the same loss takes when it
   is written out and fused by a compiler (`jax.jit` of `jax.value_and_grad`), measured to its end.
2. All peers have the same number of threads. JAX's pools take theirs from NPROC when its backend is made, so it is made
   anew for each number; its dispatch is synchronous, or a worker would compute while the caller waits. Measured, by the
   scheduler's times of each thread: with NPROC=1 the caller does all the work; XLA's own flags
   --xla_cpu_multi_thread_eigen=false and intra_op_parallelism_threads=1 leave it on four or five threads.
3. A triad (a = b + s * c) is the memory's reference.
4. A wrong result is not timed: losskit's loss and gradients, and JAX's, are compared with torch's in float64 first.
   `WrongResultError` says how far off they are. At 16M nothing is compared: so many random numbers meet at kinks (two
   boxes share a coordinate), and the graph in float64 takes gigabytes.
"""

import os

import torch
from cases import LARGE, against, torch_way

try:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA tells about slow compilations
    import jax
    import optax
except ImportError:
    jax = None
else:
    jax.config.update("jax_cpu_enable_async_dispatch", False)

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}

# Largest error of loss or gradient, relative to its largest value, that rounding explains.
TOLERANCES = {"f32": 1e-4, "f64": 1e-10, "bf16": 1e-2, "f16": 2e-3}


class WrongResultError(RuntimeError):
    """A peer computes something else than torch in float64, so that its time says nothing."""


def versions_of_jax():
    """What stands for JAX among the versions; empty where it is not installed."""
    return {"jax": jax.__version__, "optax": optax.__version__} if jax else {}


def set_threads(threads):
    """How many threads each peer may use from now on. JAX's arrays and functions made before are lost."""
    torch.set_num_threads(threads)
    if jax:
        from jax.extend import backend

        os.environ["NPROC"] = str(threads)
        backend.clear_backends()


def make_step(function, arguments, options):
    """One forward and backward of `function`, as a call without arguments that returns the loss."""
    leaves = [argument for argument in arguments if argument.requires_grad]

    def step():
        for leaf in leaves:
            leaf.grad = None
        loss = function(*arguments, **options)
        loss.backward()
        return loss

    return step


def make_jax_step(function, arguments):
    """The same for JAX: returns loss and gradient, ready."""
    arrays = [jax.numpy.asarray(argument.detach().numpy()) for argument in arguments]
    step = jax.jit(jax.value_and_grad(function))
    return lambda: jax.block_until_ready(step(*arrays))


def make_triad(arguments):
    """The memory-bound reference: a = b + s * c over as many elements as the loss has."""
    b = arguments[0].detach()
    c, a = torch.ones_like(b), torch.empty_like(b)
    return lambda: torch.add(b, c, alpha=3.0, out=a)


def cast(x, dtype):
    """Floating tensors in the case's dtype; class indices and lengths stay integers."""
    return x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x


def make_peers(case, size, dtype_name, left_out):
    """The peers by name, each a call that does its work once; what torch's is, and the bytes that a pass has to move.

    `left_out` names peers that are not wanted. At the small sizes only torch eager and losskit are timed, and
    torch.compile at 1M only: it would take half of the run.
    """
    arguments, options = case.arguments(case.shapes[size], DTYPES[dtype_name])
    large = size in LARGE
    torch_function, torch_options = torch_way(case, options)
    losskit_function = case.loss.functional
    truth = None
    if size != "16M":
        truth = loss_and_gradients(torch_function, arguments, torch_options, torch.float64)
        ours = loss_and_gradients(losskit_function, arguments, options, None)
        rounded = loss_and_gradients(torch_function, arguments, torch_options, None)
        compare(case.name, "losskit", truth, ours, dtype_name, rounded)
    peers = {
        "torch": make_step(torch_function, arguments, torch_options),
        "losskit": make_step(losskit_function, arguments, options),
    }
    if size == "1M" and case.compiles and "compile" not in left_out:
        torch._dynamo.reset()
        compiled = torch.compile(lambda *tensors: torch_function(*tensors, **torch_options), dynamic=False)
        peers["compile"] = make_step(compiled, arguments, {})
    if large and case.jax and jax and dtype_name == "f32" and "jax" not in left_out:
        peers["jax"] = make_jax_step(case.jax, arguments)
        if truth:
            compare(case.name, "jax", truth, [torch.tensor(x.tolist()) for x in peers["jax"]()], dtype_name)
    if large:
        peers["triad"] = make_triad(arguments)
    moved = sum(x.numel() * x.element_size() * (1 + x.requires_grad) for x in arguments)
    return peers, {"against": against(case, options), "bytes": moved}


def loss_and_gradients(function, arguments, options, dtype):
    """The loss and its gradients, computed in `dtype`, or the arguments' own where that is None."""
    tensors = [cast(x.detach(), dtype or x.dtype).requires_grad_(x.requires_grad) for x in arguments]
    loss = function(*tensors, **{key: cast(x, dtype) if dtype else x for key, x in options.items()})
    loss.backward()
    return [loss.detach(), *(x.grad for x in tensors if x.requires_grad)]


def compare(case_name, peer, expected, actual, dtype_name, rounded=()):
    """Stop where loss or gradients are further from torch's in float64 than rounding goes.

    torch's own in this dtype are `rounded`. Where rounding changes an order they are off, too, and how far is chance:
    ten times as far passes (Lovasz losses sort a million errors: 1.3e-3 of the largest gradient, and 3.2e-3 here).
    """
    dtype = DTYPES[dtype_name]
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # a mean's gradients may be that small
    for right, result, own in zip(expected, actual, rounded or [None] * len(expected), strict=True):
        allowed = TOLERANCES[dtype_name] * right.abs().max().item() + smallest
        if own is not None:
            allowed = max(allowed, 10 * (own.double() - right).abs().max().item())
        error = (result.double() - right).abs().max().item()
        if not error <= allowed:
            raise WrongResultError(f"{case_name}: {peer} is wrong by {error:.1e}, not timed")
