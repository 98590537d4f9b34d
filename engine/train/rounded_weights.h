// RoundedWeights: bf16 copies of a layer's f32 weights, for rounded precision; biases and the router stay f32.
#pragma once

#include <memory>

#include "engine/moe/weights.h"

namespace vkmoe {
inline namespace v1 {

class RoundedWeights {
public:
    // Memory and kernels; the copies are made by refresh. `master` is f32 throughout and outlives this.
    static Result<RoundedWeights> create(Engine& engine, const Weights& master);

    const Weights& weights() const { return *weights_; }

    // Makes the copies of what the masters are by then; of routed experts in pages refreshExpert makes them, of one
    // whose pages both tables hold.
    void refresh(Commands& commands) const;
    void refreshExpert(Commands& commands, uint32_t expert) const;

private:
    explicit RoundedWeights(const Weights& master) : master_(&master) {}
    void refreshPages(Commands& commands, bool shared, uint32_t first, uint32_t pages) const;

    const Weights* master_;
    std::unique_ptr<Weights> weights_;
    const Kernel *round_ = nullptr, *copy_ = nullptr;
};

}  // namespace v1
}  // namespace vkmoe
