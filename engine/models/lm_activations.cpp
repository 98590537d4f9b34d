#include "engine/models/lm_activations.h"

#include <algorithm>

#include "engine/moe/carver.h"
#include "engine/train/backward_workspace.h"

namespace vkmoe {
inline namespace v1 {
namespace {

void carveInputs(LmActivations& a, Carver& m, uint64_t T) {
    a.ids = m.words(T);
    a.positions = m.words(T);
    a.remaining = m.words(T);
    a.targets = m.words(T);
    a.distinct = m.words(T);
    a.distinct_offsets = m.words(T + 1);
    a.distinct_rows = m.words(T);
    a.weights = m.words(T);
    a.inputs_bytes = m.bytes;
}

// What a layer needs for itself, or in the place of the one before.
void carveLayers(LmActivations& a, Carver& m, const LmConfig& c, uint64_t T, LmKeep keep, bool generating) {
    uint64_t D = c.model_dim;
    a.layers.clear();
    for (uint32_t l = 0; l < c.layers; ++l) {
        LmActivations::Layer layer = l == 0 || keep == LmKeep::all ? LmActivations::Layer{} : a.layers.back();
        bool own = l == 0 || keep == LmKeep::all;
        layer.x = l < 2 || keep != LmKeep::nothing ? m.words(T * D) : a.layers[l - 2].x;
        if (own || generating) layer.n = m.words((a.history + T) * D);
        if (own) {
            layer.conv_roots = m.words(T);
            layer.u = m.words(T * D);
            layer.moe_roots = m.words(T);
        }
        layer.workspace = keep == LmKeep::all ? l : 0;
        layer.status = m.words(2 * LmActivations::kStatusRows);
        a.layers.push_back(layer);
    }
    a.head_status = m.words(2 * LmActivations::kStatusRows);
}

// Rows that convolutions look back at.
uint32_t rowsBefore(const LmConfig& c, bool generating) {
    return generating && c.conv_kernel != 0 ? c.conv_kernel - 1 : 0;
}

uint32_t workspaces(const LmConfig& c, LmKeep keep) { return keep == LmKeep::all ? c.layers : std::min(c.layers, 1u); }

struct Sizes {
    uint64_t memory, download;
};

Sizes carve(LmActivations& a, const LmConfig& c, uint64_t T, LmKeep keep, bool generating) {
    uint64_t D = c.model_dim;
    Carver m, b;
    carveInputs(a, m, T);
    carveLayers(a, m, c, T, keep, generating);
    a.last_x = m.words(T * D);
    a.head_x = m.words(T * D);
    a.logits = m.words(T * c.vocab_size);
    a.losses = m.words(T);
    a.shift = m.words(uint64_t{a.history} * D);
    a.back.losses = b.words(T);
    a.back.status = b.words(2 * LmActivations::kStatusRows * (uint64_t{c.layers} + 1));
    a.back.mixture_status = b.words(2 * Workspace::kStatusRows * c.layers);
    a.back.backward_status = b.words(2 * BackwardWorkspace::kStatusRows * c.layers);
    Carver sorted;  // as in Workspace
    sorted.words(uint64_t{c.experts} + 1);
    a.back.token_of = sorted.words(T * c.top_k);
    a.back.sorted_bytes = sorted.bytes;
    a.back.offsets = b.words(a.back.sorted_bytes / 4 * c.layers);
    a.back.logits = b.words(keep == LmKeep::nothing ? T * c.vocab_size : 0);
    a.back.routes = b.words(generating ? uint64_t{c.layers} * T * c.top_k : 0);
    return {m.bytes, b.bytes};
}

}  // namespace

uint64_t LmActivations::bytesFor(const LmConfig& config, const Description& mixture, uint32_t capacity, LmKeep keep,
                                 bool generating) {
    LmActivations probe;
    probe.history = rowsBefore(config, generating);
    return carve(probe, config, capacity, keep, generating).memory +
           workspaces(config, keep) * Workspace::bytesFor(mixture, mixture.top_k, capacity, {keep != LmKeep::nothing});
}

Result<LmActivations> LmActivations::create(Device& device, const LmConfig& config, const Description& mixture,
                                            uint32_t capacity, LmKeep keep, bool generating) {
    LmActivations a;
    a.capacity = capacity;
    a.history = rowsBefore(config, generating);
    Sizes sizes = carve(a, config, capacity, keep, generating);
    VKMOE_TRY(memory, device.allocate(sizes.memory, Memory::device, "activations of the language model"));
    VKMOE_TRY(upload, device.allocate(a.inputs_bytes, Memory::upload, "tokens"));
    VKMOE_TRY(download, device.allocate(sizes.download, Memory::download, "results of the language model"));
    a.memory = std::move(memory);
    a.upload = std::move(upload);
    a.download = std::move(download);
    for (uint32_t l = 0; l < workspaces(config, keep); ++l) {
        VKMOE_TRY(mixed, Workspace::create(device, mixture, mixture.top_k, capacity, {keep != LmKeep::nothing}));
        a.mixtures.push_back(std::move(mixed));
    }
    return a;
}

}  // namespace v1
}  // namespace vkmoe
