// The layer of `vkmoe bench` in ggml, for comparison: softmax router, silu_glu experts, D = F = 1024, 32 experts,
// top 4.
//
//     npm pack @node-llama-cpp/linux-x64-vulkan && tar xzf node-llama-cpp-linux-x64-vulkan-*.tgz
//     libraries=$PWD/package/bins/linux-x64-vulkan
//     g++ -std=c++20 -O1 tools/ggml_layer.cpp -o ggml_layer -L"$libraries" -lggml-base -Wl,-rpath,"$libraries"
//     -Wl,--allow-shlib-undefined
//     ./ggml_layer "$libraries/libggml-cpu-sapphirerapids.so" f32 2 1 64 512     # library, format, threads, tokens...
//     GGML_VK_VISIBLE_DEVICES=0 ./ggml_layer "$libraries/libggml-vulkan.so" f32 2 1 64
//
// The package has ggml's libraries and no headers: what is called is declared here. Prints the fastest of three runs or
// more, the result's first value fetched each time.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

extern "C" {
struct ggml_tensor;
struct ggml_cgraph;
struct ggml_context;
struct ggml_init_params {
    size_t mem_size;
    void* mem_buffer;
    bool no_alloc;
};
using Context = ggml_context*;
using Tensor = ggml_tensor*;
Context ggml_init(ggml_init_params);
void ggml_free(Context);
Tensor ggml_new_tensor_2d(Context, int type, int64_t, int64_t);
Tensor ggml_new_tensor_3d(Context, int type, int64_t, int64_t, int64_t);
Tensor ggml_reshape_2d(Context, Tensor, int64_t, int64_t);
Tensor ggml_reshape_3d(Context, Tensor, int64_t, int64_t, int64_t);
Tensor ggml_view_2d(Context, Tensor, int64_t, int64_t, size_t stride, size_t offset);
Tensor ggml_mul_mat(Context, Tensor, Tensor);
Tensor ggml_mul_mat_id(Context, Tensor, Tensor, Tensor ids);
Tensor ggml_soft_max(Context, Tensor);
Tensor ggml_argsort_top_k(Context, Tensor, int k);
Tensor ggml_get_rows(Context, Tensor, Tensor);
Tensor ggml_sum_rows(Context, Tensor);
Tensor ggml_swiglu_split(Context, Tensor, Tensor);
Tensor ggml_mul(Context, Tensor, Tensor);
Tensor ggml_div(Context, Tensor, Tensor);
Tensor ggml_add(Context, Tensor, Tensor);
ggml_cgraph* ggml_new_graph_custom(Context, size_t, bool);
void ggml_build_forward_expand(ggml_cgraph*, Tensor);
size_t ggml_nbytes(const ggml_tensor*);
size_t ggml_quantize_chunk(int, const float*, void*, int64_t first, int64_t rows, int64_t cols, const float*);
void ggml_fp32_to_bf16_row(const float*, uint16_t*, int64_t);
void* ggml_backend_reg_dev_get(void*, size_t);
void* ggml_backend_reg_get_proc_address(void*, const char*);
const char* ggml_backend_dev_description(void*);
void* ggml_backend_dev_init(void*, const char*);
void* ggml_backend_alloc_ctx_tensors(Context, void*);
void ggml_backend_tensor_set(Tensor, const void*, size_t, size_t);
void ggml_backend_tensor_get(const ggml_tensor*, void*, size_t, size_t);
int ggml_backend_graph_compute(void*, ggml_cgraph*);
}

namespace {

constexpr int64_t kDim = 1024, kExperts = 32, kTopK = 4;
const std::map<std::string, int> kTypes = {{"f32", 0}, {"f16", 1}, {"bf16", 30}, {"mxfp4", 39}};
constexpr int kF32 = 0, kBf16 = 30;

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void fill(Tensor tensor, int type, int64_t count, float size) {
    static std::mt19937 random(1);
    std::uniform_real_distribution<float> draw(-size, size);
    std::vector<float> values(static_cast<size_t>(count));
    std::generate(values.begin(), values.end(), [&] { return draw(random); });
    std::vector<char> bytes(ggml_nbytes(tensor));
    if (type == kF32)
        std::copy_n(reinterpret_cast<const char*>(values.data()), bytes.size(), bytes.begin());
    else if (type == kBf16)
        ggml_fp32_to_bf16_row(values.data(), reinterpret_cast<uint16_t*>(bytes.data()), count);
    else
        ggml_quantize_chunk(type, values.data(), bytes.data(), 0, count / kDim, kDim, nullptr);
    ggml_backend_tensor_set(tensor, bytes.data(), 0, bytes.size());
}

struct Weights {
    Tensor router, gate, up, down;
};

Tensor layer(Context c, const Weights& w, Tensor x, int64_t tokens) {
    Tensor scores = ggml_soft_max(c, ggml_mul_mat(c, w.router, x));
    Tensor chosen = ggml_argsort_top_k(c, scores, kTopK);
    Tensor weights = ggml_get_rows(c, ggml_reshape_3d(c, scores, 1, kExperts, tokens), chosen);
    weights = ggml_reshape_2d(c, weights, kTopK, tokens);
    weights = ggml_reshape_3d(c, ggml_div(c, weights, ggml_sum_rows(c, weights)), 1, kTopK, tokens);
    Tensor rows = ggml_reshape_3d(c, x, kDim, 1, tokens);
    Tensor up = ggml_mul_mat_id(c, w.up, rows, chosen), gate = ggml_mul_mat_id(c, w.gate, rows, chosen);
    Tensor y = ggml_mul_mat_id(c, w.down, ggml_swiglu_split(c, gate, up), chosen);
    y = ggml_mul(c, y, weights);
    auto choice = [&](int64_t k) {
        return ggml_view_2d(c, y, kDim, tokens, kTopK * kDim * 4, static_cast<size_t>(k * kDim * 4));
    };
    Tensor sum = choice(0);
    for (int64_t k = 1; k < kTopK; ++k) sum = ggml_add(c, sum, choice(k));
    return sum;
}

void measure(void* backend, const Weights& weights, const char* name, int64_t tokens) {
    Context c = ggml_init({1 << 24, nullptr, true});
    Tensor x = ggml_new_tensor_2d(c, kF32, kDim, tokens), sum = layer(c, weights, x, tokens);
    ggml_cgraph* graph = ggml_new_graph_custom(c, 256, false);
    ggml_build_forward_expand(graph, sum);
    ggml_backend_alloc_ctx_tensors(c, backend);
    fill(x, kF32, kDim * tokens, 1);
    double best = 1e9;
    auto start = Clock::now();
    for (int run = 0; run < 3 || (run < 200 && since(start) < 1.5); ++run) {
        auto begin = Clock::now();
        float first = 0;
        ggml_backend_graph_compute(backend, graph);
        ggml_backend_tensor_get(sum, &first, 0, sizeof first);
        best = std::min(best, since(begin));
    }
    double flops = 6.0 * kDim * kDim * kTopK * double(tokens);
    std::printf("%-6s %4d tokens %10.3f ms %8.2f GFLOP/s\n", name, int(tokens), best * 1e3, flops / best / 1e9);
    ggml_free(c);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 5 || !kTypes.contains(arguments[2])) {
        std::fputs("usage: ggml_layer LIBRARY f32|f16|bf16|mxfp4 THREADS TOKENS...\n", stderr);
        return 2;
    }
    void* library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    void* registry = reinterpret_cast<void* (*)()>(dlsym(library, "ggml_backend_init"))();
    void* device = ggml_backend_reg_dev_get(registry, 0);
    void* backend = ggml_backend_dev_init(device, nullptr);
    void* threads = ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads");
    if (threads) reinterpret_cast<void (*)(void*, int)>(threads)(backend, std::atoi(arguments[3]));
    std::printf("%s\n", ggml_backend_dev_description(device));
    Context c = ggml_init({1 << 20, nullptr, true});
    int type = kTypes.at(arguments[2]);
    auto experts = [&] { return ggml_new_tensor_3d(c, type, kDim, kDim, kExperts); };
    Weights weights{ggml_new_tensor_2d(c, kF32, kDim, kExperts), experts(), experts(), experts()};
    ggml_backend_alloc_ctx_tensors(c, backend);
    fill(weights.router, kF32, kDim * kExperts, 0.3f);
    for (Tensor matrix : {weights.gate, weights.up, weights.down}) fill(matrix, type, kDim * kDim * kExperts, 0.05f);
    for (int i = 4; i < count; ++i) measure(backend, weights, arguments[2], std::atoll(arguments[i]));
}
