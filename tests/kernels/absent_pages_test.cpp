// Experts whose pages are not here: their rows, or gradients, keep their bits, and waves of experts give the bits of
// one pass.
#include <catch2/catch_test_macros.hpp>

#include "engine/cases/scene.h"
#include "tests/devices.h"

using namespace vkmoe;

namespace {

std::vector<const KernelCode*> pagedKernels() {
    std::vector<const KernelCode*> paged;
    for (const KernelCode* code : kernels().all())
        if (findsPages(*code)) paged.push_back(code);
    return paged;
}

// The forms that find pages by expert, every `step`th of them.
std::vector<Constants> someForms(const KernelCode& code, const DeviceLimits& limits, size_t step) {
    std::vector<Constants> by_expert, some;
    for (const Constants& constants : productionConstants(code, limits))
        if (constants.dense == 0) by_expert.push_back(constants);
    for (size_t i = 0; i < by_expert.size(); i += step) some.push_back(by_expert[i]);
    return some;
}

CaseRun mustRun(Device& device, const Case& test) {
    auto done = run(device, test);
    INFO(test.label());
    if (!done) FAIL(done.error().detail);
    return std::move(*done);
}

size_t regionNamed(const Case& test, const std::string& name) {
    for (size_t i = 0; i < test.regions().size(); ++i)
        if (test.regions()[i].name == name) return i;
    FAIL("no region " << name);
    return 0;
}

// The expert that word `at` of a region belongs to: by slot, or, of gradients, by page.
struct Owners {
    const std::vector<uint32_t>& offsets;
    uint32_t slots;

    explicit Owners(const Case& test)
        : offsets(test.regions()[regionNamed(test, "offsets")].words), slots(offsets.back()) {}

    uint32_t ofWord(const Case::Region& region, size_t at) const {
        size_t slot = at / (region.words.size() / slots);
        uint32_t expert = 0;
        while (offsets[expert + 1] <= slot) ++expert;
        return expert;
    }
};

// Outputs of experts that are not here are what they were; of the others they are those of `whole`. Returns whether.
bool ownersHold(const Case& test, const Shape& shape, const CaseRun& done, const CaseRun& whole) {
    Owners owners(test);
    uint32_t page = 0;
    std::string before;
    for (size_t r = 0; r < test.regions().size(); ++r) {
        const auto& region = test.regions()[r];
        if (!region.output || region.name == "status") continue;
        page = region.name == before ? page + 1 : 0;  // pages of gradients follow each other
        before = region.name;
        bool pages = region.name == "grad" || region.name == "totals" || region.name == "partials";
        if (!pages && region.words.size() % owners.slots != 0) continue;  // an output that this form lacks
        for (size_t i = 0; i < region.words.size(); ++i) {
            bool here = shape.isHere(pages ? page : owners.ofWord(region, i));
            uint32_t expected = here ? whole.regions[r][i] : region.words[i];
            if (done.regions[r][i] == expected) continue;
            UNSCOPED_INFO(test.label() << ": " << region.name << " " << page << ", word " << i);
            return false;
        }
    }
    return true;
}

constexpr Shape kShapes[] = {
    {.tokens = 11, .experts = 7, .top_k = 3, .model_dim = 33, .hidden_dim = 70, .seed = 21},
    {.tokens = 70, .experts = 3, .top_k = 2, .model_dim = 5, .hidden_dim = 9, .skew = Skew::one_takes_all, .seed = 22},
};

}  // namespace

TEST_CASE("rows of experts whose pages are not here keep their bits", "[kernels][pages]") {
    auto scalar = openCpuDevice({.simd = false});
    for (const KernelCode* code : pagedKernels())
        for (const Constants& constants : someForms(*code, test::devices().front()->info().limits, 13))
            for (Shape shape : kShapes)
                for (Here here : {Here::even, Here::odd}) {
                    CaseRun whole = mustRun(*scalar, makeCase(*code, constants, shape));
                    Shape part = shape;
                    part.here = here;
                    Case test = makeCase(*code, constants, part);
                    INFO(code->name);
                    CHECK(ownersHold(test, part, mustRun(*scalar, test), whole));
                }
}

TEST_CASE("experts in two waves have the bits of one pass", "[kernels][device][pages]") {
    for (Device* device : test::devices())
        for (const KernelCode* code : pagedKernels())
            for (const Constants& constants : someForms(*code, device->info().limits, 37))
                for (Shape shape : kShapes) {
                    CaseRun whole = mustRun(*device, makeCase(*code, constants, shape));
                    shape.here = Here::even;
                    CaseRun first = mustRun(*device, makeCase(*code, constants, shape));
                    shape.here = Here::odd;
                    Case second = makeCase(*code, constants, shape);
                    for (size_t r = 0; r < second.regions().size(); ++r)
                        if (second.regions()[r].output) second.setWords(r, first.regions[r]);
                    auto different = difference(second, mustRun(*device, second), whole);
                    INFO(device->info().name);
                    CHECK(different.value_or("") == "");
                }
}
