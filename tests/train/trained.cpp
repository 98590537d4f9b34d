#include "tests/train/trained.h"

#include <catch2/catch_test_macros.hpp>
#include <cstring>

#include "host/transfer.h"
#include "tests/must.h"

namespace test {

using namespace vkmoe;

namespace {

std::vector<ParameterSlab> layOut(const TrainedShape& shape) {
    std::vector<ParameterSlab> slabs;
    uint32_t position = 0;
    for (const auto& sizes : shape.slabs) {
        ParameterSlab& slab = slabs.emplace_back();
        slab.name = "slab " + std::to_string(slabs.size() - 1);
        for (uint32_t words : sizes) {
            slab.tensors.push_back({"tensor " + std::to_string(position), position, slab.words, words});
            slab.words += words + shape.gap;
            ++position;
        }
    }
    return slabs;
}

// Values of all tensors as words of each slab.
std::vector<std::vector<float>> spread(const std::vector<ParameterSlab>& slabs, const std::vector<float>& values) {
    std::vector<std::vector<float>> out;
    size_t at = 0;
    for (const ParameterSlab& slab : slabs) {
        auto& words = out.emplace_back(slab.words, 0.0f);
        for (const ParameterTensor& tensor : slab.tensors)
            for (uint64_t i = 0; i < tensor.words; ++i) words[tensor.offset + i] = values.at(at++);
    }
    REQUIRE(at == values.size());
    return out;
}

}  // namespace

Trained::Trained(Engine& engine, const TrainedShape& shape, const std::vector<float>& values) : engine_(&engine) {
    auto slabs = layOut(shape);
    auto words = spread(slabs, values);
    for (size_t s = 0; s < slabs.size(); ++s) {
        weights_.push_back(test::must(upload(engine.device(), words[s], "weights")));
        slabs[s].weights = weights_.back().address();
    }
    if (!shape.touched.empty()) {
        touched_ = test::must(upload(engine.device(), shape.touched, "touched"));
        slabs[0].touched = touched_.address();
        slabs[0].page_words = shape.slabs[0][0];
    }
    set_.emplace(test::must(ParameterSet::create(engine, std::move(slabs), shape.shard)));
}

void Trained::submit(const Commands& commands) {
    auto done = submitAndWait(engine_->device(), commands);
    if (!done) FAIL(done.error().detail);
}

std::vector<float> Trained::weights() {
    std::vector<float> out;
    for (size_t s = 0; s < weights_.size(); ++s) {
        const ParameterSlab& slab = set_->slabs()[s];
        auto words = test::must(download<float>(engine_->device(), weights_[s], slab.words));
        for (const ParameterTensor& tensor : slab.tensors)
            out.insert(out.end(), words.begin() + long(tensor.offset),
                       words.begin() + long(tensor.offset + tensor.words));
    }
    return out;
}

void Trained::setGrads(const std::vector<float>& values) {
    auto words = spread(set_->slabs(), values);
    Commands commands;
    std::vector<Buffer> staged;
    staged.reserve(words.size());
    set_->zeroGrads(commands);
    for (size_t s = 0; s < words.size(); ++s) {
        staged.push_back(test::must(upload(engine_->device(), words[s], "gradients")));
        commands.copy(staged[s], 0, set_->grads(s), 0, words[s].size() * 4);
    }
    submit(commands);
}

GradNorm Trained::norm(float scale) {
    Commands commands;
    set_->squares(commands, scale);
    submit(commands);
    return set_->gradNorm();
}

Result<void> Trained::step(const AdamwOptions& options, double grad_scale, double clip) {
    Commands commands;
    set_->adamw(commands, options, options.learning_rate, grad_scale, clip);
    submit(commands);
    return set_->checkWeights();
}

std::vector<float> sequence(uint32_t seed, size_t count) {
    std::vector<float> out(count);
    for (float& x : out) {
        seed = seed * 747796405u + 2891336453u;
        x = (float(seed >> 16) - 32768) / 32768;
    }
    return out;
}

}  // namespace test
