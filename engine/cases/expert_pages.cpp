#include "engine/cases/expert_pages.h"

#include "engine/moe/page_layout.h"

namespace vkmoe {
inline namespace v1 {

Stored storedMatrix(size_t rows, size_t cols, uint32_t format, Values& values) {
    Stored matrix{values.stored(rows * cols, format), Words(1)};
    if (format == kMxfp4) matrix.scales = values.scales(rows * cols / kBlock);
    return matrix;
}

Words packed(uint32_t rows, uint32_t cols, uint32_t format, Values& values) {
    Stored source = storedMatrix(rows, cols, format, values);
    Words target(packedWords(rows, cols, WeightFormat(format))), status(2);
    PackPanels params{
        {source.values.data()}, {source.scales.data()}, {target.data()}, {status.data()}, rows, cols, 1, 0};
    Constants constants;
    constants.weight_format = format;
    cpu::pack_panels(params, constants, {0, target.size() / kWorkgroup + 1});
    return target;
}

size_t append(Words& page, const Words& part) {
    size_t offset = page.size();
    page.insert(page.end(), part.begin(), part.end());
    page.resize((page.size() + 3) / 4 * 4);
    return offset;
}

Words biasWords(size_t count, Values& values) {
    Words words = values.floats(count);
    for (auto& word : words) word = floatBitsToUint(state_rule(uintBitsToFloat(word)));
    return words;
}

ExpertRegions addExperts(Case& test, const Constants& c, const Shape& shape, Values& values,
                         const std::function<Words()>& make_page) {
    Routing routing = makeRouting(shape, values);
    ExpertRegions regions{};
    regions.table = test.input("pages", Words(2 * size_t{shape.experts}));
    Words first = shape.same_pages ? make_page() : Words();
    for (uint32_t e = 0; e < shape.experts; ++e) {
        size_t page = test.input("page", shape.same_pages ? first : make_page());
        if (c.dense != 0 || shape.isHere(e)) test.pointFrom(regions.table, 8 * size_t{e}, page);
    }
    uint32_t tiles = uint32_t(routing.tiles.size() / 2);
    regions.offsets = test.input("offsets", routing.offsets);
    regions.tiles = test.input("tiles", routing.tiles);
    regions.tile_count = test.input("tile_count", {tiles});
    regions.token_of = test.input("token_of", routing.token_of);
    regions.rows = c.dense != 0 ? shape.tokens : shape.tokens * shape.top_k;
    regions.groups_per_column = c.dense != 0 ? ceilDiv(shape.tokens, kTileRows) : tiles;
    return regions;
}

}  // namespace v1
}  // namespace vkmoe
