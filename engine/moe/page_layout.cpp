#include "engine/moe/page_layout.h"

#include "shaders/constants.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// Takes `words` from the end of the page.
uint32_t take(PageLayout& layout, uint64_t words) {
    uint64_t at = layout.words;
    layout.words = (at + words + 3) / 4 * 4;
    return static_cast<uint32_t>(at);
}

}  // namespace

uint64_t packedWords(uint32_t rows, uint32_t cols, WeightFormat format) {
    uint64_t steps = format == WeightFormat::f32 ? cols
                     : format == WeightFormat::mxfp4
                         ? cols / 8 + (uint64_t{cols} + kScaleGroup * kBlock - 1) / (kScaleGroup * kBlock)
                         : (uint64_t{cols} + 1) / 2;
    return (uint64_t{rows} + kPanel - 1) / kPanel * steps * kPanel;
}

PageLayout layoutPage(const ExpertShape& shape) {
    PageLayout layout;
    uint64_t up = packedWords(shape.hidden_dim, shape.model_dim, shape.up_format);
    if (shape.gated) layout.gate_weight = take(layout, up);
    layout.up_weight = take(layout, up);
    layout.down_weight = take(layout, packedWords(shape.model_dim, shape.hidden_dim, shape.down_format));
    if (shape.gate_bias) layout.gate_bias = take(layout, shape.hidden_dim);
    if (shape.up_bias) layout.up_bias = take(layout, shape.hidden_dim);
    if (shape.down_bias) layout.down_bias = take(layout, shape.model_dim);
    return layout;
}

ExpertShape routedShape(const Description& d, WeightFormat up, WeightFormat down) {
    return {d.model_dim, d.hidden_dim, d.gated(), d.gate_bias, d.up_bias, d.down_bias, up, down};
}

ExpertShape sharedShape(const Description& d, WeightFormat up, WeightFormat down) {
    return {d.model_dim, d.shared_dim, d.gated(), d.shared_gate_bias, d.shared_up_bias, d.shared_down_bias, up, down};
}

}  // namespace v1
}  // namespace vkmoe
