// Every instruction set that runs here against a float64 loop, without Python: for machines that are only emulated.
// How to build and run it stands in docs/kernels.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "question.hpp"

extern "C" {
const char* longattn_instruction_set(int32_t i);
int32_t longattn_row_moments(const Question* ask, const char* instruction_set);
int32_t longattn_attend(const Attention* ask, const char* instruction_set);
}

namespace {

struct Shape {
    int64_t rows, keys, query_heads, key_heads, head_size, skip_first;
};

constexpr Shape kShapes[] = {{1, 1, 2, 1, 64, 0},   {2, 2, 9, 3, 80, 1},     {63, 63, 2, 2, 8, 4},
                             {40, 130, 3, 1, 7, 0}, {90, 1000, 9, 3, 64, 4}, {8, 4097, 4, 1, 128, 300}};

constexpr int64_t kValueSize = 40;

struct Case {
    std::vector<float> q, k, v;
    std::vector<uint16_t> q_bits, k_bits, v_bits;  // the same numbers, where they are bfloat16
    std::vector<int64_t> positions, distances;
    Question ask{};
};

// Narrow numbers have the upper half of their bits only.
void draw(std::mt19937& random, size_t count, bool narrow, std::vector<float>& values, std::vector<uint16_t>& bits) {
    std::normal_distribution<float> normal(0.0f, 2.0f);
    for (size_t i = 0; i < count; ++i) {
        const float value = normal(random);
        uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        if (narrow) wide &= 0xffff0000u;
        float rounded;
        std::memcpy(&rounded, &wide, sizeof rounded);
        values.push_back(rounded);
        bits.push_back(static_cast<uint16_t>(wide >> 16));
    }
}

Case make(const Shape& shape, bool narrow, std::mt19937& random) {
    Case made;
    draw(random, shape.rows * shape.query_heads * shape.head_size, narrow, made.q, made.q_bits);
    draw(random, shape.keys * shape.key_heads * shape.head_size, narrow, made.k, made.k_bits);
    draw(random, shape.keys * shape.key_heads * kValueSize, narrow, made.v, made.v_bits);
    std::uniform_int_distribution<int64_t> any_key(0, shape.keys - 1);
    for (int64_t r = 0; r < shape.rows; ++r) made.positions.push_back(any_key(random));
    made.distances = {shape.keys / 4, 0, shape.keys, 1, shape.keys - 1};
    Question& ask = made.ask;
    ask.windows = 1;
    ask.rows = shape.rows;
    ask.keys = shape.keys;
    ask.query_heads = shape.query_heads;
    ask.key_heads = shape.key_heads;
    ask.head_size = shape.head_size;
    ask.num_distances = static_cast<int64_t>(made.distances.size());
    ask.skip_first = shape.skip_first;
    ask.scale = 1.0 / std::sqrt(static_cast<double>(shape.head_size));
    ask.dtype = narrow ? kBfloat16 : kFloat32;
    ask.threads = 2;
    const int64_t q_strides[] = {0, shape.query_heads * shape.head_size, shape.head_size, 1};
    const int64_t k_strides[] = {0, shape.key_heads * shape.head_size, shape.head_size, 1};
    std::copy_n(q_strides, 4, ask.q_strides);
    std::copy_n(k_strides, 4, ask.k_strides);
    return made;
}

// The attention of one row and head to each key up to its own; returns the largest logit that vectors of these lengths
// can have.
double attention(const Case& given, int64_t row, int64_t head, std::vector<double>& p) {
    const Question& ask = given.ask;
    const int64_t n = given.positions[row], key_head = head / (ask.query_heads / ask.key_heads);
    p.assign(n + 1, 0.0);
    double peak = -INFINITY, largest = 0.0, total = 0.0;
    for (int64_t j = 0; j <= n; ++j) {
        double dot = 0.0, query_square = 0.0, key_square = 0.0;
        for (int64_t i = 0; i < ask.head_size; ++i) {
            const double query = given.q[(row * ask.query_heads + head) * ask.head_size + i];
            const double key = given.k[(j * ask.key_heads + key_head) * ask.head_size + i];
            dot += query * key;
            query_square += query * query;
            key_square += key * key;
        }
        p[j] = dot * ask.scale;
        peak = std::max(peak, p[j]);
        largest = std::max(largest, std::sqrt(query_square * key_square) * ask.scale);
    }
    for (double& logit : p) total += logit = std::exp(logit - peak);
    for (double& share : p) share /= total;
    return largest;
}

// Mass and square of one row and head at each distance.
double formula(const Case& given, int64_t row, int64_t head, std::vector<double>& mass, std::vector<double>& square) {
    const Question& ask = given.ask;
    std::vector<double> p;
    const double largest = attention(given, row, head, p);
    mass.assign(given.distances.size(), 0.0);
    square = mass;
    for (size_t d = 0; d < given.distances.size(); ++d)
        for (int64_t j = ask.skip_first; j <= given.positions[row] - given.distances[d]; ++j) {
            mass[d] += p[j];
            square[d] += p[j] * p[j];
        }
    return largest;
}

float widened(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// Largest error of what is read of the values, relative to the promised one: weights and result are rounded to bfloat16
// where the inputs are.
double worst_reading(Case& given, const char* instruction_set) {
    const bool narrow = given.ask.dtype == kBfloat16;
    Attention ask{};
    ask.rows = given.ask;
    ask.rows.q = narrow ? static_cast<const void*>(given.q_bits.data()) : given.q.data();
    ask.rows.k = narrow ? static_cast<const void*>(given.k_bits.data()) : given.k.data();
    ask.rows.positions = given.positions.data();
    ask.v = narrow ? static_cast<const void*>(given.v_bits.data()) : given.v.data();
    ask.value_size = kValueSize;
    const int64_t v_strides[] = {0, ask.rows.key_heads * kValueSize, kValueSize, 1};
    std::copy_n(v_strides, 4, ask.v_strides);
    const size_t outputs = ask.rows.rows * ask.rows.query_heads * kValueSize;
    std::vector<float> wide(outputs, NAN);
    std::vector<uint16_t> bits(outputs, 0x7fc0);
    ask.output = narrow ? static_cast<void*>(bits.data()) : wide.data();
    if (longattn_attend(&ask, instruction_set) != 0) return INFINITY;
    double worst = 0.0;
    std::vector<double> p;
    for (int64_t row = 0; row < ask.rows.rows; ++row)
        for (int64_t head = 0; head < ask.rows.query_heads; ++head) {
            const double promised =
                2e-5 * std::max(1.0, attention(given, row, head, p) / 8) + (narrow ? 0x1p-7 : 0.0);
            const int64_t key_head = head / (ask.rows.query_heads / ask.rows.key_heads);
            for (int64_t i = 0; i < kValueSize; ++i) {
                double right = 0.0, size = 0.0;
                for (size_t j = 0; j < p.size(); ++j) {
                    const double part = p[j] * given.v[(j * ask.rows.key_heads + key_head) * kValueSize + i];
                    right += part;
                    size += std::fabs(part);
                }
                const size_t at = (row * ask.rows.query_heads + head) * kValueSize + i;
                const double error = std::fabs((narrow ? widened(bits[at]) : wide[at]) - right) / (size + 1e-6) / promised;
                if (!(error <= worst)) worst = error;
            }
        }
    return worst;
}

// Largest error of the moments, relative to the promised one.
double worst_error(Case& given, const char* instruction_set) {
    Question& ask = given.ask;
    const bool narrow = ask.dtype == kBfloat16;
    const size_t outputs = ask.query_heads * ask.rows * ask.num_distances;
    std::vector<double> mass(outputs, NAN), square(outputs, NAN), right_mass, right_square;
    ask.q = narrow ? static_cast<const void*>(given.q_bits.data()) : given.q.data();
    ask.k = narrow ? static_cast<const void*>(given.k_bits.data()) : given.k.data();
    ask.positions = given.positions.data();
    ask.distances = given.distances.data();
    ask.mass = mass.data();
    ask.square = square.data();
    if (longattn_row_moments(&ask, instruction_set) != 0) return INFINITY;
    double worst = 0.0;
    for (int64_t head = 0; head < ask.query_heads; ++head)
        for (int64_t row = 0; row < ask.rows; ++row) {
            const double promised = 1e-5 * std::max(1.0, formula(given, row, head, right_mass, right_square) / 8);
            for (int64_t d = 0; d < ask.num_distances; ++d) {
                const size_t at = (head * ask.rows + row) * ask.num_distances + d;
                for (const auto& [ours, right] : {std::pair{mass[at], right_mass[d]}, {square[at], right_square[d]}}) {
                    const double error = std::fabs(ours - right) / (right + 1e-6) / promised;
                    if (!(error <= worst)) worst = error;  // NaN is the worst
                }
            }
        }
    return worst;
}

}  // namespace

int main() {
    std::mt19937 random(20260722);
    bool good = true;
    for (const bool narrow : {false, true}) {
        std::vector<Case> cases;
        for (const Shape& shape : kShapes) cases.push_back(make(shape, narrow, random));
        for (int32_t i = 0; const char* name = longattn_instruction_set(i); ++i) {
            double moments = 0.0, reading = 0.0;
            for (Case& given : cases) {
                for (const auto& [worst, error] : {std::pair{&moments, worst_error(given, name)},
                                                   {&reading, worst_reading(given, name)}})
                    if (!(error <= *worst)) *worst = error;
            }
            good = good && moments <= 1.0 && reading <= 1.0;
            std::printf("%-15s %-9s largest error, of the bound: moments %.2f, attention %.2f\n", name,
                        narrow ? "bfloat16" : "float32", moments, reading);
        }
    }
    std::puts(good ? "ok" : "WRONG");
    return good ? 0 : 1;
}
