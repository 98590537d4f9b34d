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
    a.targets = m.words(a.chunks() * ((uint64_t{a.chunk} + 1) / 2) * 2);
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
        layer.workspace = keep == LmKeep::all ? size_t{l} * a.kept : 0;
        layer.status = m.words(2 * LmActivations::kStatusRows * uint64_t{a.chunks()});
        a.layers.push_back(layer);
    }
    a.head_status = m.words(2 * LmActivations::kStatusRows * uint64_t{a.chunks()});
}

// Rows that convolutions look back at.
uint32_t rowsBefore(const LmConfig& c, bool generating) {
    return generating && c.conv_kernel != 0 ? c.conv_kernel - 1 : 0;
}

uint32_t workspaces(const LmConfig& c, LmKeep keep) { return keep == LmKeep::all ? c.layers : std::min(c.layers, 1u); }

struct Sizes {
    uint64_t memory, download;
};

Sizes carve(LmActivations& a, const LmConfig& c, LmKeep keep, bool generating) {
    uint64_t D = c.model_dim, T = a.capacity, C = a.chunk, chunks = a.chunks(), in_layers = chunks * c.layers;
    Carver m, b;
    carveInputs(a, m, T);
    carveLayers(a, m, c, T, keep, generating);
    a.last_x = m.words(T * D);
    a.head_x = m.words(T * D);
    a.logits = m.words(C * c.vocab_size);
    a.losses = m.words(T);
    a.shift = m.words(uint64_t{a.history} * D);
    a.back.losses = b.words(T);
    a.back.status = b.words(2 * LmActivations::kStatusRows * (in_layers + chunks));
    a.back.mixture_status = b.words(2 * Workspace::kStatusRows * in_layers);
    a.back.backward_status = b.words(2 * BackwardWorkspace::kStatusRows * in_layers);
    Carver sorted;  // as in Workspace
    sorted.words(uint64_t{c.experts} + 1);
    a.back.token_of = sorted.words(uint64_t{a.chunk} * c.top_k);
    a.back.sorted_bytes = sorted.bytes;
    a.back.offsets = b.words(a.back.sorted_bytes / 4 * in_layers);
    a.back.logits = b.words(keep == LmKeep::nothing ? T * c.vocab_size : 0);
    a.back.routes = b.words(generating ? uint64_t{c.layers} * T * c.top_k : 0);
    a.back.guess = b.words(generating ? T * c.top_k : 0);
    return {m.bytes, b.bytes};
}

// Sizes and nothing else.
LmActivations shaped(const LmConfig& c, uint32_t capacity, uint32_t chunk, LmKeep keep, bool generating) {
    LmActivations a;
    a.capacity = capacity;
    a.chunk = std::clamp(chunk, 1u, std::max(capacity, 1u));
    a.kept = keep == LmKeep::all ? a.chunks() : 1;
    a.history = rowsBefore(c, generating);
    return a;
}

// Tokens of a chunk's Workspace.
uint32_t workspaceTokens(const LmActivations& a, uint32_t chunk) {
    return std::min(a.chunk, a.capacity - chunk * a.chunk);
}

}  // namespace

std::vector<LmChunk> LmActivations::cut(uint32_t tokens) const {
    std::vector<LmChunk> all;
    for (uint32_t first = 0; first < tokens; first += std::min(chunk, tokens - first))
        all.push_back({first / chunk, first, std::min(chunk, tokens - first), tokens - first <= chunk});
    return all;
}

uint64_t LmActivations::mixtureStatusAt(uint32_t layer, const LmChunk& c) const {
    return back.mixture_status + numberOf(layer, c) * 8 * Workspace::kStatusRows;
}

uint64_t LmActivations::backwardStatusAt(uint32_t layer, const LmChunk& c) const {
    return back.backward_status + numberOf(layer, c) * 8 * BackwardWorkspace::kStatusRows;
}

uint64_t LmActivations::bytesFor(const LmConfig& config, const Description& mixture, uint32_t capacity, uint32_t chunk,
                                 LmKeep keep, bool generating) {
    LmActivations probe = shaped(config, capacity, chunk, keep, generating);
    const WorkspaceUse use{keep != LmKeep::nothing};
    const Sizes sizes = carve(probe, config, keep, generating);
    uint64_t bytes = allocatedBytes(sizes.memory) + allocatedBytes(probe.inputs_bytes) + allocatedBytes(sizes.download);
    uint64_t full = Workspace::bytesFor(mixture, mixture.top_k, probe.chunk, use);
    if (keep != LmKeep::all) return bytes + workspaces(config, keep) * full;
    uint64_t last = Workspace::bytesFor(mixture, mixture.top_k, workspaceTokens(probe, probe.kept - 1), use);
    return bytes + config.layers * ((probe.kept - 1) * full + last);
}

Result<LmActivations> LmActivations::create(Device& device, const LmConfig& config, const Description& mixture,
                                            uint32_t capacity, uint32_t chunk, LmKeep keep, bool generating) {
    LmActivations a = shaped(config, capacity, chunk, keep, generating);
    Sizes sizes = carve(a, config, keep, generating);
    VKMOE_TRY(memory, device.allocate(sizes.memory, Memory::device, "activations of the language model"));
    VKMOE_TRY(upload, device.allocate(a.inputs_bytes, Memory::upload, "tokens"));
    VKMOE_TRY(download, device.allocate(sizes.download, Memory::download, "results of the language model"));
    a.memory = std::move(memory);
    a.upload = std::move(upload);
    a.download = std::move(download);
    for (uint32_t l = 0; l < workspaces(config, keep); ++l)
        for (uint32_t c = 0; c < a.kept; ++c) {
            VKMOE_TRY(mixed, Workspace::create(device, mixture, mixture.top_k, workspaceTokens(a, c),
                                               {keep != LmKeep::nothing}));
            a.mixtures.push_back(std::move(mixed));
        }
    return a;
}

}  // namespace v1
}  // namespace vkmoe
