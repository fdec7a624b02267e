// Row moments of one tile: online softmax with a sum per lane, and snapshots of the sums at each distance.
//
// With x the logit in units of log2 and a reference m per row, e = 2^(x - m): a row's normaliser is the sum of e over
// its keys, mass and square at distance d are the sums of e and e^2 over the keys up to n - d. Keys are visited in
// ascending order, so the sums of all distances are the running sums at different moments. m stays as it is until a
// lane's sum would leave float32's comfort: then every sum so far is rescaled. The quotients do not depend on m.
#pragma once

#include "logits.hpp"

namespace {

template <class Product, class Source>
struct Moments {
    using Simd = typename Product::Simd;
    using V = typename Simd::V;
    using L = Logits<Product, Source>;
    static constexpr int kWidth = Simd::width;
    static constexpr int kRows = L::kRows;

    struct alignas(64) Row {
        V mass, square;                 // unflushed sums over the far candidates: keys from skip_first on
        double flushed_mass, flushed_square;
        double skipped;                 // sum of e over the keys below skip_first
        double peak;                    // m, in units of log2
        int64_t end;                    // first key after the row: its position + 1
        int64_t next_stop;              // key at which something is to be noted; end at the latest
        int64_t taken;                  // distances already noted
        bool skipping;                  // next_stop is where the skipped keys end
        double* mass_out;
        double* square_out;
    };

    struct Tile {
        const Plan& plan;
        float scale;     // at least 0; its sign is in the packed queries
        float* logits;   // [kRows][kChunk]
        Row* rows;
    };

    static size_t scratch_bytes(const Question& ask) {
        return L::bytes() + rows_bytes() + L::queries_bytes(ask);
    }

    static void tile(const Plan& plan, int64_t window, int64_t head, int64_t first, const void* packed, void* scratch) {
        const Question& ask = plan.question;
        char* memory = static_cast<char*>(scratch);
        const Tile tile{plan, in_log2(ask.scale), reinterpret_cast<float*>(memory),
                        reinterpret_cast<Row*>(memory + L::bytes())};
        char* queries = memory + L::bytes() + rows_bytes();
        const int count = begin(tile, window, head, first, queries);

        Product::begin();
        int64_t flush_at = kChunksPerFlush * kChunk;
        const int64_t end = tile.rows[count - 1].end;
        for (int64_t key = 0; key < end; key += kChunk) {
            int active = 0;
            while (tile.rows[active].end <= key) ++active;
            L::multiply(ask, queries, packed, key, least(key + kChunk, end), active, count, tile.logits);
            if (key == flush_at) {
                for (int r = active; r < count; ++r) flush(tile.rows[r]);
                flush_at += kChunksPerFlush * kChunk;
            }
            for (int r = active; r < count; ++r) {
                Row& row = tile.rows[r];
                const float* logits = tile.logits + r * kChunk;
                if (key == 0) raise_peak(tile, row, logits, static_cast<int>(least(kChunk, row.end)));
                if (row.next_stop < key + kChunk)
                    stop_by_stop(tile, row, logits, key);
                else
                    add_chunk(tile, row, logits);
            }
        }
        Product::end();
        for (int r = 0; r < count; ++r)
            // rows that end with a chunk had no stop inside it
            while (tile.rows[r].next_stop <= tile.rows[r].end) note(tile, tile.rows[r], V{}, V{});
    }

   private:
    static constexpr size_t rows_bytes() { return kRows * sizeof(Row); }

    // Rows set up and queries packed; the number of them in this tile.
    static int begin(const Tile& tile, int64_t window, int64_t head, int64_t first, char* queries) {
        const Question& ask = tile.plan.question;
        const int count = L::count(ask, first);
        std::memset(queries, 0, L::queries_bytes(ask));
        for (int r = 0; r < count; ++r) {
            const auto [row, query_head] = L::member(tile.plan, head, first + r);
            L::pack_query(ask, window, row, query_head, r, queries);
            const int64_t out = ((window * ask.query_heads + query_head) * ask.rows + row) * ask.num_distances;
            begin_row(tile, tile.rows[r], ask.positions[row] + 1, ask.mass + out, ask.square + out);
        }
        return count;
    }

    static void begin_row(const Tile& tile, Row& row, int64_t end, double* mass_out, double* square_out) {
        const Question& ask = tile.plan.question;
        row = Row{};
        row.peak = -INFINITY;
        row.end = end;
        row.mass_out = mass_out;
        row.square_out = square_out;
        // borders at or before the skipped keys leave nothing
        for (; row.taken < ask.num_distances && end - tile.plan.distances[row.taken] <= ask.skip_first; ++row.taken)
            mass_out[tile.plan.distance_slots[row.taken]] = square_out[tile.plan.distance_slots[row.taken]] = 0.0;
        row.skipping = ask.skip_first > 0;
        row.next_stop = row.skipping ? least(ask.skip_first, end) : border(tile, row);
    }

    // First key that is too near for the next distance; after the last distance, the end of the row.
    static LONGATTN_INLINE int64_t border(const Tile& tile, const Row& row) {
        return row.taken < tile.plan.question.num_distances ? row.end - tile.plan.distances[row.taken] : row.end;
    }

    // A chunk in which nothing is to be noted.
    static LONGATTN_INLINE void add_chunk(const Tile& tile, Row& row, const float* logits) {
        for (bool raised = false;; raised = true) {
            const V peak = Simd::splat(static_cast<float>(row.peak));
            V mass{}, square{};
#pragma GCC unroll 16
            for (int i = 0; i < kChunk; i += kWidth) {
                const V e = L::exponential(logits + i, tile.scale, peak);
                mass += e;
                square += e * e;
            }
            if (raised || !Simd::reaches(mass, kHighestSum)) {
                row.mass += mass;
                row.square += square;
                return;
            }
            raise_peak(tile, row, logits, kChunk);
        }
    }

    // A chunk with stops: the end of the skipped keys, borders of distances, the end of the row.
    static LONGATTN_INLINE void stop_by_stop(const Tile& tile, Row& row, const float* logits, int64_t key) {
        alignas(64) float e[kChunk];
        exponentials(tile, row, logits, static_cast<int>(least(kChunk, row.end - key)), e);
        V mass{}, square{};
        int done = 0;
        while (row.next_stop < key + kChunk) {
            const int stop = static_cast<int>(row.next_stop - key);
            add(e, done, stop, mass, square);
            const V part = Simd::before(Simd::load(e + done), stop - done);
            const bool skipping = row.skipping;
            note(tile, row, mass + part, square + part * part);
            if (row.next_stop > row.end) return;
            if (skipping) {
                mass = square = V{};
                for (int i = done; i < stop; ++i) e[i] = 0.0f;
            }
        }
        add(e, done, kChunk, mass, square);
        row.mass += mass;
        row.square += square;
    }

    // e of the first `count` keys and of the vector that holds the last; the keys beyond it are not the row's.
    static LONGATTN_INLINE void exponentials(const Tile& tile, Row& row, const float* logits, int count, float* e) {
        for (bool raised = false;; raised = true) {
            const V peak = Simd::splat(static_cast<float>(row.peak));
            V mass{};
            for (int i = 0; i < count; i += kWidth) {
                const V here = L::exponential(logits + i, tile.scale, peak);
                Simd::store(e + i, here);
                mass += here;
            }
            if (raised || !Simd::reaches(mass, kHighestSum)) return;
            raise_peak(tile, row, logits, count);
        }
    }

    // Whole vectors from `done` up to `stop`.
    static LONGATTN_INLINE void add(const float* e, int& done, int stop, V& mass, V& square) {
        for (; done + kWidth <= stop; done += kWidth) {
            const V here = Simd::load(e + done);
            mass += here;
            square += here * here;
        }
    }

    // The sums at next_stop, of which `mass` and `square` are the part that is not yet in the row.
    static LONGATTN_INLINE void note(const Tile& tile, Row& row, V mass, V square) {
        float unflushed[2];
        Simd::sums(row.mass + mass, row.square + square, unflushed);
        const double total_mass = row.flushed_mass + unflushed[0];
        const double total_square = row.flushed_square + unflushed[1];
        if (row.skipping) {
            row.skipping = false;
            row.skipped = total_mass;
            row.mass = row.square = V{};
            row.flushed_mass = row.flushed_square = 0.0;
            row.next_stop = border(tile, row);
            return;
        }
        if (row.taken < tile.plan.question.num_distances) {
            const int64_t slot = tile.plan.distance_slots[row.taken++];
            row.mass_out[slot] = total_mass;
            row.square_out[slot] = total_square;
            row.next_stop = border(tile, row);
            return;
        }
        const double share = 1.0 / (row.skipped + total_mass);
        for (int64_t d = 0; d < row.taken; ++d) {
            row.mass_out[d] *= share;
            row.square_out[d] *= share * share;
        }
        row.next_stop = INT64_MAX;
    }

    static LONGATTN_INLINE void flush(Row& row) {
        float unflushed[2];
        Simd::sums(row.mass, row.square, unflushed);
        row.flushed_mass += unflushed[0];
        row.flushed_square += unflushed[1];
        row.mass = row.square = V{};
    }

    // Lifts m to the largest of these logits, if that is higher, and all sums with it.
    static LONGATTN_INLINE void raise_peak(const Tile& tile, Row& row, const float* logits, int count) {
        const double peak = static_cast<double>(L::largest(logits, count) * tile.scale);
        if (!(peak > row.peak)) return;
        const double shrink = exp2(row.peak - peak);
        row.peak = peak;
        rescale(tile, row, shrink);
    }

    static __attribute__((noinline)) void rescale(const Tile& tile, Row& row, double shrink) {
        const float narrow_shrink = static_cast<float>(shrink);
        row.mass *= narrow_shrink;
        row.square *= narrow_shrink * narrow_shrink;
        row.flushed_mass *= shrink;
        row.flushed_square *= shrink * shrink;
        row.skipped *= shrink;
        for (int64_t d = 0; d < row.taken; ++d) {
            row.mass_out[tile.plan.distance_slots[d]] *= shrink;
            row.square_out[tile.plan.distance_slots[d]] *= shrink * shrink;
        }
    }
};

// The least that row moments must do per pair, each part alone and from the nearest cache: what a kernel is held to.
template <class Product>
struct Floor {
    using Simd = typename Product::Simd;
    using V = typename Simd::V;
    static constexpr int kPairs = Product::group_rows * Product::block_keys;

    // The product of a group of queries and a block of keys, again and again.
    static void products(int64_t head_size, int64_t repeats, void* scratch) {
        char* memory = static_cast<char*>(scratch);
        float* logits = reinterpret_cast<float*>(memory);
        const char* group = memory + kPairs * sizeof(float);
        const char* block = group + round_up(Product::group_bytes(head_size), 64);
        Product::begin();
        for (; repeats > 0; --repeats) {
            Product::multiply(group, block, head_size, logits, Product::block_keys);
            asm volatile("" ::: "memory");
        }
        Product::end();
    }

    // Per pair: subtraction of the peak, exponential, sum, sum of squares.
    static void exponentials(int64_t, int64_t repeats, void* scratch) {
        float* logits = static_cast<float*>(scratch);
        const V peak = Simd::splat(1.0f);
        V mass{}, square{};
        for (; repeats > 0; --repeats) {
#pragma GCC unroll 8
            for (int i = 0; i < kPairs; i += Simd::width) {
                const V e = Simd::exp2(Simd::load(logits + i) - peak);
                mass += e;
                square += e * e;
            }
            asm volatile("" ::: "memory");
        }
        Simd::store(logits, mass + square);
    }

    static size_t scratch_bytes(int64_t head_size) {
        return kPairs * sizeof(float) + round_up(Product::group_bytes(head_size), 64) + Product::block_bytes(head_size);
    }
};

}  // namespace
