// The symbol that tells Python from which version of kernels/wire.py this library was built.
#include "generated/wire.h"

extern "C" __attribute__((visibility("default"))) const char LOSSKIT_WIRE = 1;
