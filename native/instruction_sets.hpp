// The instruction sets this library was built with.
#pragma once

#include "question.hpp"

extern const InstructionSet kPortable;
extern const InstructionSet kEmulatedTiles;
#if defined(__x86_64__)
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;
extern const InstructionSet kAvx512Bf16;
extern const InstructionSet kAmx;
#endif
