// What is asked, and the table of functions through which each instruction set answers.
//
// Units are compiled for different processors and linked into one library. Only the plain structs of this header pass
// between them; everything else lives in anonymous namespaces and uses no standard templates, because the linker keeps
// one copy of an inline function and might keep the one that this machine cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

enum DataType : int32_t { kFloat32 = 0, kBfloat16 = 1 };

// Mirrored field by field in src/longattn/attention/native.py. Strides count elements.
struct Question {
    const void* q;             // [windows, rows, query_heads, head_size]
    const void* k;             // [windows, keys, key_heads, head_size]
    const int64_t* positions;  // [rows], each in [0, keys)
    const int64_t* distances;  // [num_distances], each at least 0
    double* mass;              // [windows, query_heads, rows, num_distances], contiguous
    double* square;            // the same
    int64_t q_strides[4];
    int64_t k_strides[4];
    int64_t windows, rows, keys, query_heads, key_heads, head_size, num_distances, skip_first;
    double scale;
    int32_t dtype;  // of q and k
    int32_t threads;
};

// Causal attention: each row's softmax over the keys up to its own, times their values.
struct Attention {
    Question rows;         // all but distances, skip_first, mass and square
    const void* v;         // [windows, keys, key_heads, value_size], of the type of q and k
    void* output;          // [windows, rows, query_heads, value_size], of the same type, contiguous
    int64_t v_strides[4];
    int64_t value_size;
};

// A question with its rows and distances in the order in which a tile meets them.
struct Plan {
    Question question;
    const int64_t* row_order;       // rows by ascending position
    const int64_t* distances;       // descending: the border furthest back comes first
    const int64_t* distance_slots;  // where each of them goes in the output
};

// The instruction set's answer for one data type. A tile is `tile_rows` (row, query head) pairs of one window and key
// head, counted row by row in `row_order`; its result depends on nothing but the plan.
struct Kernel {
    int64_t tile_rows;
    int64_t block_keys;  // keys are packed in blocks of so many
    size_t (*packed_bytes)(const Question&);
    void (*pack)(const Question&, int64_t window, int64_t key_head, int64_t first_block, int64_t last_block,
                 void* packed);
    size_t (*scratch_bytes)(const Question&);
    void (*tile)(const Plan&, int64_t window, int64_t key_head, int64_t first, const void* packed, void* scratch);
    size_t (*packed_values_bytes)(const Attention&);
    void (*pack_values)(const Attention&, int64_t window, int64_t key_head, int64_t first_key, int64_t last_key,
                        void* packed);
    size_t (*attend_scratch_bytes)(const Attention&);
    void (*attend_tile)(const Attention&, const Plan&, int64_t window, int64_t key_head, int64_t first,
                        const void* packed_keys, const void* packed_values, void* scratch);
    // the least arithmetic of `floor_pairs` pairs, `repeats` times, in two parts
    int64_t floor_pairs;
    size_t (*floor_scratch_bytes)(int64_t head_size);
    void (*floor_products)(int64_t head_size, int64_t repeats, void* scratch);
    void (*floor_exponentials)(int64_t head_size, int64_t repeats, void* scratch);
};

struct InstructionSet {
    const char* name;
    bool (*runs_here)();
    Kernel float32;
    Kernel bfloat16;
};
