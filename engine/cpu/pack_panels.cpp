#include "engine/cpu/panel_packer.h"

namespace vkmoe {
inline namespace v1 {
namespace cpu {

void pack_panels(const PackPanels& p, const Constants& c, Groups groups) {
    PanelPacker packer{p, c};
    uint32_t steps = packer.steps();
    eachThread(groups, uint64_t{ceilDiv(p.rows, kPanel)} * steps * kPanel, [&](uint32_t i) {
        p.target.at[i] = packer.panelWord(i / kPanel / steps * kPanel + i % kPanel, i / kPanel % steps);
    });
}

}  // namespace cpu
}  // namespace v1
}  // namespace vkmoe
