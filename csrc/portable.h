// Included before everything else when the package's library is built, so that it runs wherever torch's wheels do.
//
// 1. A library asks for the newest version of each symbol that the machine which built it has, and is refused by an
//    older system. torch's wheels need glibc 2.28 and the libstdc++ of GCC 8; here are the few symbols that are newer.
// 2. It changes no result: glibc's old exp, exp2, log, log2 and pow call the same code as the new ones and set errno.
// 3. tests/test_install.py reads the versions that the built library needs.
#pragma once

#ifdef __linux__
#include <cstddef>
#include <new>

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver exp2, exp2@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver log2, log2@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#endif

#ifdef __GLIBCXX__
// Templates that newer versions of libstdc++ hold ready, such as the constructor of std::stringstream, are made here.
#undef _GLIBCXX_EXTERN_TEMPLATE
#define _GLIBCXX_EXTERN_TEMPLATE 0

namespace std {
[[noreturn]] __attribute__((weak, visibility("hidden"))) void __throw_bad_array_new_length() {
  throw bad_array_new_length();
}
}  // namespace std

// libstdc++ asks glibc 2.32 whether there is one thread, to count references faster. There are several.
extern "C" {
__attribute__((weak, visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
#endif
