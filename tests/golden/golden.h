// Golden: one recorded case of the reference engine, by name: Golden("moe/default").f32("input").
//
// The cases lie in tests/golden/data/reference_engine, whose README tells what each holds. Whatever is missing or
// damaged there is a std::runtime_error that names it, so a test fails with a reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vkmoe::tests {

struct GoldenCase;

// What is known of an array or a file that is too large to keep.
struct Digest {
    uint64_t size = 0;  // numbers of an array, bytes of a file
    uint32_t fnv1a = 0, crc32 = 0;
    uint64_t stride = 0;  // of the array's "samples:"; 0 for a file

    bool matches(std::span<const std::byte> bytes) const;  // both checksums; for an array, of its bytes
};

class Golden {
public:
    explicit Golden(const std::string& name);

    // The names of all cases that start with `prefix`, in the order of the index.
    static std::vector<std::string> cases(const std::string& prefix);

    const std::string& name() const;

    // Arrays, row-major.
    bool has(const std::string& array) const;
    std::vector<std::string> arrays() const;
    std::vector<uint64_t> shape(const std::string& array) const;
    std::vector<uint16_t> u16(const std::string& array) const;
    std::vector<int32_t> i32(const std::string& array) const;
    std::vector<uint32_t> u32(const std::string& array) const;
    std::vector<float> f32(const std::string& array) const;
    std::vector<double> f64(const std::string& array) const;

    // Lists of integers, e.g. "trainSequences:0".
    bool hasIntegers(const std::string& key) const;
    std::vector<uint32_t> integers(const std::string& key) const;
    // Lists of reals, e.g. "train_plain:lossSpread".
    bool hasReals(const std::string& key) const;
    std::vector<double> reals(const std::string& key) const;

    // Scalars, e.g. "loadBalanceLoss", "modelDim", "seed".
    bool hasNumber(const std::string& key) const;
    double number(const std::string& key) const;
    double number(const std::string& key, double otherwise) const;

    // Whole files, with or without the ending: "init_v1" is "init_v1.moe0" or "init_v1.evl0". Checked against their
    // checksums.
    bool hasBlob(const std::string& file) const;
    std::vector<std::byte> blob(const std::string& file) const;

    // Of a file, or of an array kept as checksums.
    bool hasDigest(const std::string& key) const;
    Digest digest(const std::string& key) const;

private:
    template <class Number>
    std::vector<Number> array(const std::string& key, const std::string& type) const;

    const GoldenCase* case_;
};

uint32_t fnv1a(std::span<const std::byte> bytes);
uint32_t crc32(std::span<const std::byte> bytes);

}  // namespace vkmoe::tests
