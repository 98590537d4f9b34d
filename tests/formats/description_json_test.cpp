#include "engine/formats/description_json.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace vkmoe;
using namespace vkmoe::formats;
using Catch::Matchers::ContainsSubstring;

namespace {

DescriptionFields mustRead(const std::string& text, uint32_t layer = 0) {
    const auto json = DescriptionJson::read("x", {{kDescriptionKey, text}});
    INFO((json ? "" : json.error().detail));
    REQUIRE(json);
    return json.value().layer(layer);
}

std::string errorOf(const std::string& text) {
    const auto json = DescriptionJson::read("x", {{kDescriptionKey, text}});
    return json ? "no error" : json.error().detail;
}

}  // namespace

TEST_CASE("an empty description has the defaults, and no top_k", "[formats][description]") {
    const DescriptionFields fields = mustRead("{}");
    const Description& d = fields.description;
    CHECK_FALSE((fields.has_top_k || fields.router_bias || fields.selection_bias || fields.shared));
    CHECK((d.score == Score::softmax && !d.renormalize && d.renormalize_epsilon == 0 && d.routed_scale == 1));
    CHECK((d.groups == 1 && d.groups_kept == 1 && d.group_score == GroupScore::max));
    CHECK((d.dispatch == Dispatch::dropless && d.capacity_factor == 1.25f && d.tokens_per_expert_ratio == 4));
    CHECK((d.noise_std == 0 && d.noise_seed == 0 && d.activation == Activation::silu_glu));
    CHECK((d.swiglu_limit == 7 && d.swiglu_alpha == 1.702f && d.shared_order == SharedOrder::last));
}

TEST_CASE("every field is read", "[formats][description]") {
    const DescriptionFields fields =
        mustRead(R"({"score":"sigmoid","top_k":6,"renormalize":true,"renormalize_epsilon":1e-20,"routed_scale":2.5,)"
                 R"("router_bias":true,"selection_bias":false,"groups":8,"groups_kept":4,"group_score":"sum_of_top2",)"
                 R"("dispatch":"capacity","capacity_factor":2,"tokens_per_expert_ratio":1.5,"noise_std":0.25,)"
                 R"("noise_seed":4294967295,"activation":"clamped_swiglu","swiglu_limit":6,"swiglu_alpha":1.5,)"
                 R"("shared":"sigmoid_gated","shared_order":"first"})");
    const Description& d = fields.description;
    CHECK((d.score == Score::sigmoid && d.renormalize && d.renormalize_epsilon == 1e-20f && d.routed_scale == 2.5f));
    CHECK((fields.has_top_k && d.top_k == 6 && fields.router_bias == true && fields.selection_bias == false));
    CHECK((d.groups == 8 && d.groups_kept == 4 && d.group_score == GroupScore::sum_of_top2));
    CHECK((d.dispatch == Dispatch::capacity && d.capacity_factor == 2 && d.tokens_per_expert_ratio == 1.5f));
    CHECK((d.noise_std == 0.25f && d.noise_seed == 4294967295 && d.activation == Activation::clamped_swiglu));
    CHECK((d.swiglu_limit == 6 && d.swiglu_alpha == 1.5f && fields.shared == Shared::sigmoid_gated));
    CHECK(d.shared_order == SharedOrder::first);
}

TEST_CASE("every value of a named field is read, and no other", "[formats][description]") {
    const auto read = [](const std::string& field, const std::string& value) {
        return errorOf("{\"" + field + "\":\"" + value + "\"}");
    };
    const std::pair<const char*, std::vector<const char*>> fields[] = {
        {"score", {"softmax", "softmax_selected", "sigmoid"}},
        {"group_score", {"max", "sum_of_top2"}},
        {"dispatch", {"dropless", "capacity", "fixed_budget"}},
        {"activation", {"relu", "silu_glu", "gelu_glu", "clamped_swiglu"}},
        {"shared", {"none", "plain", "sigmoid_gated"}},
        {"shared_order", {"first", "last"}}};
    for (const auto& [field, values] : fields) {
        CAPTURE(field);
        std::string list;
        for (const char* value : values) CHECK(read(field, value) == "no error");
        for (const char* wrong : {"", "Softmax", "nonsense", "?"})
            CHECK_THAT(read(field, wrong), ContainsSubstring("x: vkmoe.moe: " + std::string(field) + " is \"" + wrong +
                                                             "\", must be " + values[0]));
    }
}

TEST_CASE("what a description cannot be is refused with a reason", "[formats][description][hostile]") {
    const std::pair<const char*, const char*> rows[] = {
        {"", "x: vkmoe.moe is no valid JSON at its byte"},
        {"{", "x: vkmoe.moe is no valid JSON at its byte"},
        {"[]", "x: vkmoe.moe is an array, must be an object"},
        {"7", "x: vkmoe.moe is 7, must be an object"},
        {"null", "x: vkmoe.moe is null, must be an object"},
        {R"({"top_k":2}x)", "x: vkmoe.moe is no valid JSON"},
        {R"({"topk":2})", "x: vkmoe.moe: topk is an unknown field"},
        {R"({"model_dim":2})", "x: vkmoe.moe: model_dim is an unknown field"},
        {R"({"layers":2})", "x: vkmoe.moe: layers is an unknown field"},
        {R"({"layers.":{}})", "x: vkmoe.moe: layers. is an unknown field"},
        {R"({"layers.01":{}})", "x: vkmoe.moe: layers.01 is an unknown field"},
        {R"({"layers.-1":{}})", "x: vkmoe.moe: layers.-1 is an unknown field"},
        {R"({"layers.1024":{}})", "x: vkmoe.moe: layers.1024 is an unknown field"},
        {R"({"layers.0":{},"layers.0":{}})", "x: vkmoe.moe: layers.0 is there twice"},
        {R"({"layers.0":3})", "x: vkmoe.moe: layers.0 is 3, must be an object"},
        {R"({"layers.0":[]})", "x: vkmoe.moe: layers.0 is an array, must be an object"},
        {R"({"layers.0":{"layers.1":{}}})", "x: vkmoe.moe layers.0: layers.1 is an unknown field"},
        {R"({"layers.3":{"top_k":-1}})", "x: vkmoe.moe layers.3: top_k is -1, must be an integer of 0 to 4294967295"},
        {R"({"top_k":2,"top_k":2})", "x: vkmoe.moe: top_k is there twice"},
        {R"({"top_k":"2"})", "x: vkmoe.moe: top_k is \"2\", must be an integer of 0 to 4294967295"},
        {R"({"top_k":2.0})", "x: vkmoe.moe: top_k is 2.0, must be an integer"},
        {R"({"top_k":2e0})", "x: vkmoe.moe: top_k is 2e0, must be an integer"},
        {R"({"top_k":4294967296})", "x: vkmoe.moe: top_k is 4294967296, must be an integer"},
        {R"({"top_k":null})", "x: vkmoe.moe: top_k is null, must be an integer"},
        {R"({"top_k":{}})", "x: vkmoe.moe: top_k is an object, must be an integer"},
        {R"({"top_k":[2]})", "x: vkmoe.moe: top_k is an array, must be an integer"},
        {R"({"renormalize":1})", "x: vkmoe.moe: renormalize is 1, must be true or false"},
        {R"({"router_bias":"yes"})", "x: vkmoe.moe: router_bias is \"yes\", must be true or false"},
        {R"({"routed_scale":true})", "x: vkmoe.moe: routed_scale is true, must be 0, or a number of 1.4e-45"},
        {R"({"routed_scale":1e39})", "x: vkmoe.moe: routed_scale is 1e39, must be 0, or a number of 1.4e-45"},
        {R"({"routed_scale":-1e999})", "x: vkmoe.moe: routed_scale is -1e999, must be 0, or a number of 1.4e-45"},
        {R"({"renormalize_epsilon":1e-50})", "x: vkmoe.moe: renormalize_epsilon is 1e-50, must be 0, or a number of"},
        {R"({"routed_scale":NaN})", "x: vkmoe.moe is no valid JSON"},
        {R"({"score":1})", "x: vkmoe.moe: score is 1, must be softmax, softmax_selected or sigmoid"},
        {R"({"shared_order":"middle"})", "x: vkmoe.moe: shared_order is \"middle\", must be first or last"},
    };
    for (const auto& [text, sentence] : rows) {
        CAPTURE(text);
        CHECK_THAT(errorOf(text), ContainsSubstring(sentence));
    }
    CHECK_THAT(errorOf("{\"score\":\"" + std::string(1000, 'x') + "\"}"), ContainsSubstring("xxx...\", must be"));
}

TEST_CASE("a layer's own fields come before the common ones", "[formats][description]") {
    const char* text = R"({"layers.2":{"top_k":3,"shared":"none"},"top_k":1,"renormalize":true,"shared":"plain"})";
    CHECK(mustRead(text, 0).description.top_k == 1);
    CHECK(mustRead(text, 2).description.top_k == 3);
    CHECK(mustRead(text, 2).description.renormalize);
    CHECK(mustRead(text, 0).shared == Shared::plain);
    CHECK(mustRead(text, 2).shared == Shared::none);
    CHECK(DescriptionJson::read("x", {{kDescriptionKey, text}}).value().lastLayer() == 2);
    CHECK_FALSE(DescriptionJson::read("x", {{kDescriptionKey, "{}"}}).value().lastLayer());
}

TEST_CASE("a layer's own fields may be a text of their own", "[formats][description]") {
    const auto read = [](const std::map<std::string, std::string>& metadata) {
        return DescriptionJson::read("x", metadata);
    };
    const std::string common = R"({"top_k":1,"renormalize":true})", own = R"({"top_k":3})";
    const auto json = read({{"vkmoe.moe", common}, {"layers.2", own}, {"format", "pt"}});
    REQUIRE(json);
    CHECK(json.value().lastLayer() == 2);
    CHECK(json.value().layer(0).description.top_k == 1);
    CHECK(json.value().layer(2).description.top_k == 3);
    CHECK(json.value().layer(2).description.renormalize);
    const auto alone = read({{"layers.0", common}, {"layers.1", own}});
    REQUIRE(alone);
    CHECK(alone.value().layer(0).description.top_k == 1);
    CHECK_FALSE(alone.value().layer(1).description.renormalize);

    const auto error = [&](const std::map<std::string, std::string>& metadata) {
        const auto refused = read(metadata);
        return refused ? "no error" : refused.error().detail;
    };
    CHECK(error({{"vkmoe.moe", R"({"layers.2":{}})"}, {"layers.2", own}}) == "x: layers.2 is there twice");
    CHECK_THAT(error({{"layers.2", R"({"topk":3})"}}), ContainsSubstring("x: layers.2: topk is an unknown field"));
    CHECK_THAT(error({{"layers.2", R"({"top_k":"3"})"}}), ContainsSubstring("x: layers.2: top_k is \"3\", must be"));
    CHECK_THAT(error({{"layers.2", "3"}}), ContainsSubstring("x: layers.2 is 3, must be an object"));
    CHECK_THAT(error({{"layers.2", "{"}}), ContainsSubstring("layers.2"));
    CHECK(error({{"vkmoe.moe", common}, {"vkmoe.moo", own}}) == "x: __metadata__ has vkmoe.moo, which is unknown");
    CHECK(error({{"vkmoe.moe", common}, {"layers.02", own}}) == "x: __metadata__ has layers.02, which is unknown");
    CHECK(error({{"format", "pt"}}) == "x: is no layer file: its __metadata__ has no vkmoe.moe");
}

TEST_CASE("a written description reads back", "[formats][description]") {
    Description d;
    d.top_k = 6;
    d.score = Score::sigmoid;
    d.renormalize_epsilon = 1e-20f;
    d.routed_scale = 2.4999998f;
    d.swiglu_alpha = 0.1f;
    d.noise_seed = 4294967295;
    d.groups = 8;
    Description other = d;
    other.activation = Activation::relu;
    const Description both[] = {d, other};
    const std::string text = descriptionToJson(both);
    const Description first = mustRead(text, 0).description, second = mustRead(text, 1).description;
    CHECK(first.renormalize_epsilon == d.renormalize_epsilon);
    CHECK(first.routed_scale == d.routed_scale);
    CHECK(first.swiglu_alpha == d.swiglu_alpha);
    CHECK((first.noise_seed == d.noise_seed && first.groups == 8 && first.score == d.score && first.top_k == 6));
    CHECK((first.activation == Activation::silu_glu && second.activation == Activation::relu));
    CHECK(mustRead(text).shared == Shared::none);
    CHECK(text.ends_with(R"(,"layers.1":{"activation":"relu"}})"));
}
