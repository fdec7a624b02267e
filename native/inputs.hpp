// Reading queries and keys of either type and any strides.
#pragma once

#include "question.hpp"
#include "vectors.hpp"

namespace {

LONGATTN_INLINE float widen(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// The nearest bfloat16, ties to even; NaN stays NaN.
LONGATTN_INLINE uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

LONGATTN_INLINE float as_float(float value) { return value; }
LONGATTN_INLINE float as_float(uint16_t bits) { return widen(bits); }

// One vector of head_size numbers.
template <class Element>
struct Strip {
    const Element* first;
    int64_t stride;
    LONGATTN_INLINE Element operator[](int64_t i) const { return first[i * stride]; }
};

template <class Element>
LONGATTN_INLINE Strip<Element> key_strip(const Question& ask, int64_t window, int64_t key, int64_t head) {
    const int64_t* s = ask.k_strides;
    return {static_cast<const Element*>(ask.k) + window * s[0] + key * s[1] + head * s[2], s[3]};
}

template <class Element>
LONGATTN_INLINE Strip<Element> query_strip(const Question& ask, int64_t window, int64_t row, int64_t head) {
    const int64_t* s = ask.q_strides;
    return {static_cast<const Element*>(ask.q) + window * s[0] + row * s[1] + head * s[2], s[3]};
}

LONGATTN_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
LONGATTN_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
LONGATTN_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
