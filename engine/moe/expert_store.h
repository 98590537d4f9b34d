// ExpertStore: the routed experts' pages of a model file's layers, put together on the CPU as Weights::load puts them
// on a device: the same bytes, and zeros between the parts.
//
//     auto store = ExpertStore::create(model->layers);
//     (*store)->read((*store)->pageOf(layer, expert), slot, scratch);
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/moe/expert_parts.h"
#include "host/page_store.h"

namespace vkmoe {
inline namespace v1 {

class ExpertStore final : public PageStore {
public:
    // The store keeps the layers. With `widen` matrices become f32, as training wants them. Errors are those of
    // Weights::load: a description or a tensor that is wrong.
    static Result<std::unique_ptr<ExpertStore>> create(std::vector<formats::LayerSource> layers, bool widen = false);

    // Layer by layer: that of layer 0's expert 0 is page 0.
    PageId pageOf(uint32_t layer, uint32_t expert) const { return layers_[layer].first_page + expert; }
    uint32_t layers() const { return uint32_t(layers_.size()); }
    uint32_t experts(uint32_t layer) const { return layers_[layer].source.description.experts; }
    const PageLayout& layout(uint32_t layer) const { return layers_[layer].layout; }

    uint32_t pages() const override { return uint32_t(layer_of_.size()); }
    uint64_t pageBytes(PageId page) const override { return layerOf(page).layout.bytes(); }
    uint64_t sourceBytes(PageId page) const override;
    void announce(PageId page) const override;
    Result<void> read(PageId page, std::span<std::byte> into, std::vector<std::byte>& scratch) const override;
    // A layer's experts, where their tensors are stacked in the file; the parts are tensors.
    Row row(PageId page) const override;
    Result<void> readPart(PageId page, uint32_t part, std::span<std::byte> into,
                          std::vector<std::byte>& scratch) const override;

private:
    struct Layer {
        formats::LayerSource source;
        ExpertShape shape;
        PageLayout layout;
        PageId first_page = 0;
        uint64_t source_bytes = 0;                 // of each page in the file
        bool stacked = false;                      // each tensor of all experts lies together
        std::vector<std::vector<PagePart>> parts;  // of each expert; they point into `source`
    };

    static Result<void> describe(Layer& layer, bool widen);
    const Layer& layerOf(PageId page) const { return layers_[layer_of_[page]]; }
    const std::vector<PagePart>& partsOf(PageId page) const;

    std::vector<Layer> layers_;
    std::vector<uint32_t> layer_of_;  // [pages]
};

}  // namespace v1
}  // namespace vkmoe
