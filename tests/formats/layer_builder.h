// Hand-made safetensors files and layer files, right or wrong, for the tests of their readers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/formats/model_source.h"

namespace test {

using Bytes = std::vector<std::byte>;

// N, the header, and so many bytes of data (0, 1, 2, ... modulo 251).
Bytes safetensors(const std::string& header, size_t data_bytes = 0);
Bytes text(const std::string& content);

struct TestTensor {
    std::string name, dtype;
    std::vector<uint64_t> shape;
};

// Tensors one after the other, in this order.
Bytes safetensors(const std::vector<TestTensor>& tensors, const std::string& description_json,
                  const std::map<std::string, std::string>& more_metadata = {});

// The description and tensors of a small layer: D 4, F 6, E 3, S 5, or D 32, F 64 with MXFP4 experts. Tests change
// them.
struct TestLayer {
    std::string description = R"({"top_k":2})";
    std::vector<TestTensor> tensors;
    std::map<std::string, std::string> metadata = {};  // more of it

    static TestLayer silu(const std::string& prefix = "");    // silu_glu, a sigmoid-gated shared expert, all biases
    static TestLayer relu(const std::string& dtype = "F32");  // what MoE0 can hold
    static TestLayer mxfp4(const std::string& prefix = "");
    TestTensor& operator[](const std::string& name);
    void remove(const std::string& name);
    void append(const TestLayer& other);
    Bytes bytes() const { return safetensors(tensors, description, metadata); }
};

// What the reader makes of a file called x.safetensors, and its error.
vkmoe::Result<vkmoe::formats::ModelSource> readLayers(const Bytes& bytes);
std::string layerError(const Bytes& bytes);

// What every user of a model may rely on: valid descriptions, complete tensors within the bytes, of the size their
// shapes say.
void checkSound(const vkmoe::formats::ModelSource& model);

// The model of a layer that is right.
vkmoe::formats::ModelSource mustRead(const TestLayer& layer);

// Every tensor and every field of two models is the same, wherever its bytes are.
void checkSame(const vkmoe::formats::ModelSource& a, const vkmoe::formats::ModelSource& b);

// Whole files.
void put(const std::string& path, const Bytes& bytes);
Bytes get(const std::string& path);

// A tensor's bytes, as they are in the file.
Bytes contents(const vkmoe::formats::LayerSource& layer, const std::string& name);

}  // namespace test
