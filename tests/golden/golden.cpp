#include "tests/golden/golden.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

namespace vkmoe::tests {

namespace {

const std::string kFolder = std::string(VKMOE_TEST_DATA) + "/reference_engine/";

struct Array {
    std::string type, file;
    uint64_t offset = 0, count = 0;
    std::vector<uint64_t> shape;
};

struct Blob {
    std::string file;  // "-" where only the digest is kept
    Digest digest;
};

}  // namespace

struct GoldenCase {
    std::string name;
    std::map<std::string, Array> arrays;
    std::map<std::string, Blob> blobs;
    std::map<std::string, Digest> digests;
    std::map<std::string, double> numbers;
    std::map<std::string, std::vector<uint32_t>> integers;
    std::map<std::string, std::vector<double>> reals;
};

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

uint32_t toChecksum(const std::string& text) { return static_cast<uint32_t>(std::stoull(text)); }

void addRow(GoldenCase& into, const std::vector<std::string>& row) {
    const std::string& kind = row.at(0);
    const std::string& name = row.at(2);
    if (kind == "T") {
        Array array{row.at(3), row.at(4), std::stoull(row.at(5)), std::stoull(row.at(6)), {}};
        for (const std::string& size : split(row.size() > 7 ? row[7] : "", ','))
            array.shape.push_back(std::stoull(size));
        into.arrays[name] = array;
    } else if (kind == "B") {
        into.blobs[name] = {row.at(3), {std::stoull(row.at(4)), toChecksum(row.at(5)), toChecksum(row.at(6)), 0}};
    } else if (kind == "D") {
        into.digests[name] = {std::stoull(row.at(3)), toChecksum(row.at(4)), toChecksum(row.at(5)),
                              std::stoull(row.at(6))};
    } else if (kind == "S") {
        into.numbers[name] = std::stod(row.at(3));
    } else if (kind == "I") {
        std::vector<uint32_t>& list = into.integers[name];
        for (const std::string& one : split(row.size() > 3 ? row[3] : "", ','))
            list.push_back(static_cast<uint32_t>(std::stoul(one)));
    } else if (kind == "F") {
        for (const std::string& one : split(row.at(3), ',')) into.reals[name].push_back(std::stod(one));
    } else {
        throw std::runtime_error("an index has a row of unknown kind: " + kind);
    }
}

void readIndex(const std::string& file, std::vector<GoldenCase>& cases) {
    std::ifstream stream(kFolder + file);
    if (!stream) throw std::runtime_error("cannot open " + kFolder + file);
    for (std::string line; std::getline(stream, line);) {
        const std::vector<std::string> row = split(line, '\t');
        const auto same = [&](const GoldenCase& one) { return one.name == row.at(1); };
        auto found = std::find_if(cases.begin(), cases.end(), same);
        if (found == cases.end()) found = cases.insert(cases.end(), GoldenCase{.name = row.at(1)});
        addRow(*found, row);
    }
}

std::vector<GoldenCase> readIndices() {
    std::vector<GoldenCase> cases;
    readIndex("index.tsv", cases);
    readIndex("index_train.tsv", cases);
    return cases;
}

const std::vector<GoldenCase>& index() {
    static const std::vector<GoldenCase> cases = readIndices();
    return cases;
}

std::vector<std::byte> readBytes(const std::string& file, uint64_t offset, uint64_t bytes) {
    std::ifstream stream(kFolder + file, std::ios::binary);
    std::vector<std::byte> data(bytes);
    stream.seekg(static_cast<std::streamoff>(offset));
    stream.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(bytes));
    if (!stream) throw std::runtime_error("cannot read " + file + " at offset " + std::to_string(offset));
    return data;
}

template <class Row>
const Row& look(const std::map<std::string, Row>& rows, const GoldenCase& in, const std::string& name) {
    const auto found = rows.find(name);
    if (found == rows.end()) throw std::runtime_error("golden case " + in.name + " has no " + name);
    return found->second;
}

// A file's row, by its name or by its name without the ending.
std::map<std::string, Blob>::const_iterator findBlob(const GoldenCase& in, const std::string& name) {
    const auto found = in.blobs.find(name);
    if (found != in.blobs.end()) return found;
    const auto layer = in.blobs.find(name + ".moe0");
    return layer != in.blobs.end() ? layer : in.blobs.find(name + ".evl0");
}

}  // namespace

bool Digest::matches(std::span<const std::byte> bytes) const {
    return vkmoe::tests::fnv1a(bytes) == fnv1a && vkmoe::tests::crc32(bytes) == crc32;
}

Golden::Golden(const std::string& name) : case_(nullptr) {
    for (const GoldenCase& one : index())
        if (one.name == name) case_ = &one;
    if (case_ == nullptr) throw std::runtime_error("there is no golden case " + name);
}

std::vector<std::string> Golden::cases(const std::string& prefix) {
    std::vector<std::string> names;
    for (const GoldenCase& one : index())
        if (one.name.starts_with(prefix)) names.push_back(one.name);
    return names;
}

const std::string& Golden::name() const { return case_->name; }

bool Golden::has(const std::string& array) const { return case_->arrays.contains(array); }

std::vector<std::string> Golden::arrays() const {
    std::vector<std::string> names;
    for (const auto& [name, row] : case_->arrays) names.push_back(name);
    return names;
}

std::vector<uint64_t> Golden::shape(const std::string& array) const { return look(case_->arrays, *case_, array).shape; }

template <class Number>
std::vector<Number> Golden::array(const std::string& key, const std::string& type) const {
    const Array& row = look(case_->arrays, *case_, key);
    if (row.type != type) throw std::runtime_error(name() + " " + key + " is " + row.type + ", not " + type);
    const std::vector<std::byte> bytes = readBytes(row.file, row.offset, row.count * sizeof(Number));
    std::vector<Number> numbers(row.count);
    if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
}

std::vector<uint16_t> Golden::u16(const std::string& key) const { return array<uint16_t>(key, "u16"); }
std::vector<int32_t> Golden::i32(const std::string& key) const { return array<int32_t>(key, "i32"); }
std::vector<uint32_t> Golden::u32(const std::string& key) const { return array<uint32_t>(key, "u32"); }
std::vector<float> Golden::f32(const std::string& key) const { return array<float>(key, "f32"); }
std::vector<double> Golden::f64(const std::string& key) const { return array<double>(key, "f64"); }

bool Golden::hasIntegers(const std::string& key) const { return case_->integers.contains(key); }

std::vector<uint32_t> Golden::integers(const std::string& key) const { return look(case_->integers, *case_, key); }

bool Golden::hasReals(const std::string& key) const { return case_->reals.contains(key); }

std::vector<double> Golden::reals(const std::string& key) const { return look(case_->reals, *case_, key); }

bool Golden::hasNumber(const std::string& key) const { return case_->numbers.contains(key); }

double Golden::number(const std::string& key) const { return look(case_->numbers, *case_, key); }

double Golden::number(const std::string& key, double otherwise) const {
    return hasNumber(key) ? number(key) : otherwise;
}

bool Golden::hasBlob(const std::string& file) const {
    const auto found = findBlob(*case_, file);
    return found != case_->blobs.end() && found->second.file != "-";
}

std::vector<std::byte> Golden::blob(const std::string& file) const {
    if (!hasBlob(file)) throw std::runtime_error("golden case " + name() + " holds no file " + file);
    const Blob& row = findBlob(*case_, file)->second;
    std::vector<std::byte> bytes = readBytes(row.file, 0, row.digest.size);
    if (!row.digest.matches(bytes)) throw std::runtime_error(row.file + " is not the recorded file");
    return bytes;
}

bool Golden::hasDigest(const std::string& key) const {
    return case_->digests.contains(key) || findBlob(*case_, key) != case_->blobs.end();
}

Digest Golden::digest(const std::string& key) const {
    const auto found = findBlob(*case_, key);
    return found != case_->blobs.end() ? found->second.digest : look(case_->digests, *case_, key);
}

uint32_t fnv1a(std::span<const std::byte> bytes) {
    uint32_t hash = 2166136261u;
    for (std::byte byte : bytes) hash = (hash ^ static_cast<uint32_t>(byte)) * 16777619u;
    return hash;
}

uint32_t crc32(std::span<const std::byte> bytes) {
    uint32_t crc = ~0u;
    for (std::byte byte : bytes) {
        crc ^= static_cast<uint32_t>(byte);
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    }
    return ~crc;
}

}  // namespace vkmoe::tests
