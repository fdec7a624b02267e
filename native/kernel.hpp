// All that an instruction set does with one kind of product.
#pragma once

#include "attending.hpp"
#include "moments.hpp"

namespace {

template <class Product, class Source>
constexpr Kernel kernel() {
    using L = Logits<Product, Source>;
    using M = Moments<Product, Source>;
    using A = Attending<Product, Source>;
    using F = Floor<Product>;
    return {L::kRows,        Product::block_keys, L::packed_bytes, L::pack,
            M::scratch_bytes, M::tile,
            A::packed_bytes, A::pack,             A::scratch_bytes, A::tile,
            F::kPairs,       F::scratch_bytes,    F::products,     F::exponentials};
}

}  // namespace
