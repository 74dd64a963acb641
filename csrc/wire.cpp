// What tells Python from which version of kernels/wire.py, and of direct.h, this library was built.
#include "generated/wire.h"

#include "direct.h"

#define LOSSKIT_TOLD extern "C" __attribute__((visibility("default")))
LOSSKIT_TOLD const char LOSSKIT_WIRE = 1;
LOSSKIT_TOLD const uint64_t losskit_call_layout = losskit::kCallLayout;
