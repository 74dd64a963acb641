"""Names that the operands and parameters of a formula cannot have, wherever the formula is printed."""

from __future__ import annotations

import re

from losskit.errors import DeclarationError
from losskit.formula import PRIMITIVES
from losskit.loss import Loss


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What an argument of a formula cannot be called, and why.
_CALLS = _words(
    "run call plan plan_of Loss legacy_reduction self reduction size_average reduce sample_weight mask normalizer "
    "unknown more problem overridden refuse_more strict misspelt LossError has_torch_function_variadic "
    "handle_torch_function"
)
_CPP = _words(
    "alignas alignof and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool case catch "
    "char char16_t char32_t char8_t co_await co_return co_yield compl concept const const_cast consteval "
    "constexpr constinit decltype default delete do double dynamic_cast enum explicit export extern final float "
    "friend goto inline int long mutable namespace new noexcept not_eq nullptr operator or_eq override private "
    "protected public reflexpr register reinterpret_cast requires restrict short signed sizeof static "
    "static_assert static_cast struct switch synchronized template this thread_local throw typedef typeid "
    "typename typeof union unsigned using virtual void volatile wchar_t xor xor_eq linux unix i386 T std losskit "
    "block int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t ptrdiff_t NAN INFINITY NULL "
    "EOF BUFSIZ MAXFLOAT SNAN SNANF SNANL BYTE_ORDER BIG_ENDIAN LITTLE_ENDIAN PDP_ENDIAN NFDBITS CHAR_BIT "
    "CHAR_MAX CHAR_MIN CLOCKS_PER_SEC MB_CUR_MAX MB_LEN_MAX OVERFLOW UNDERFLOW DOMAIN SING PLOSS TLOSS "
    "WCONTINUED WEXITED WEXITSTATUS WIFCONTINUED WIFEXITED WIFSIGNALED WIFSTOPPED WNOHANG WNOWAIT WSTOPPED "
    "WSTOPSIG WTERMSIG WUNTRACED alloca assert errno issubnormal math_errhandling offsetof signgam stderr stdin "
    "stdout va_arg va_copy va_end va_start htobe16 htobe32 htobe64 htole16 htole32 htole64 be16toh be32toh "
    "be64toh le16toh le32toh le64toh"
)
_MACROS = re.compile(
    r"(M|FP|FD|HUGE|MATH|DBL|FLT|LDBL|FLT\d+X?|CHAR|SCHAR|UCHAR|SHRT|USHRT|INT|UINT|LONG|ULONG|LLONG|ULLONG|"
    r"U?INT\d+|U?INT_\w+|U?INTMAX|U?INTPTR|PTRDIFF|SIZE|SSIZE|WCHAR|WINT|SIG|RAND|EXIT|LOSSKIT|TORCH|GLIBC|DECIMAL)_\w+|SNANF\w+"
)
_JAVASCRIPT = _words(
    "arguments async await boolean byte debugger enum eval export extends final finally function implements in "
    "instanceof interface let native new null package super switch synchronized this throws transient typeof undefined "
    "void yield NaN Infinity Math Number Object"
)
_TRITON = _words("tl lk libdevice triton")
RESERVED = _CALLS | _CPP | _JAVASCRIPT | _TRITON


def check_argument(cls: type[Loss], name: str) -> None:
    """Refuse the name of an operand or a parameter that is no identifier wherever the formula is printed."""
    where = "in C++ or JavaScript"
    if name in _CALLS:
        where = "beside the call's own arguments"
    elif name in _TRITON:
        where = "in Triton"
    elif name in PRIMITIVES or name in ("inf", "nan", "derivative"):
        where = "where the formula language has a function of this name"
    elif not (name in RESERVED or name.endswith("_") or _MACROS.fullmatch(name) or re.match(r"__|_[A-Z]", name)):
        return
    raise DeclarationError(
        f"{cls.__name__}: an argument of `value` cannot be called {name} {where}; choose another name"
    )
