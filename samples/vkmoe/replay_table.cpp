#include "samples/vkmoe/replay_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "samples/vkmoe/html.h"

namespace vkmoe::program {
namespace {

double ratio(const Replay& result, const Replay& to) {
    return to.misses == 0 ? 1 : double(result.misses) / double(to.misses);
}

Json resultJson(const Replay& r) {
    return {{"hits", r.hits},
            {"misses", r.misses},
            {"hit_rate", r.hitRate()},
            {"bytes", r.bytes},
            {"predicted_seconds", r.seconds}};
}

const ReplayRow& best(const ReplayBudget& budget) {
    return *std::min_element(budget.rows.begin(), budget.rows.end(),
                             [](const ReplayRow& a, const ReplayRow& b) { return a.result.misses < b.result.misses; });
}

std::string policyName(const ReplayRow& row) {
    if (row.policy == row.decided) return name(row.policy);
    return fmt::format("{} ({})", name(row.policy), name(row.decided));
}

std::string aboutTrace(const ReplayTable& t) {
    return fmt::format("{} groups, {} pages of at most {}, {} visits", t.groups, t.pages,
                       readableBytes(double(t.page_bytes)), t.visits);
}

std::string aboutBudget(const ReplayBudget& b) {
    return fmt::format("{:.4g} % of the pages: {} slots, {}", b.percent, b.slots, readableBytes(double(b.bytes)));
}

std::string textRow(const std::string& who, const Replay& r, const ReplayBudget& b) {
    return fmt::format("  {:<18} {:>8.2f}% {:>10} {:>9.3f} {:>9.3f} {:>12} {:>11.3f}\n", who, 100 * r.hitRate(),
                       r.misses, ratio(r, b.belady), ratio(r, b.apart), readableBytes(double(r.bytes)), r.seconds);
}

// A bar is the share of uses that missed; the pale part, what Belady misses as well.
std::string htmlRow(const std::string& who, const Replay& r, const ReplayBudget& b) {
    double missed = 100 * (1 - r.hitRate()), least = 100 * (1 - b.belady.hitRate());
    return fmt::format(
        "<tr><td>{}</td><td style='width:34%'><svg viewBox='0 0 100 6' preserveAspectRatio=none "
        "style='height:.8rem'><rect width={:.2f} height=6 fill='var(--bar)'/><rect width={:.2f} height=6 "
        "fill='var(--line)'/></svg></td><td class=n>{:.2f}%</td><td class=n>{}</td><td class=n>{:.3f}</td><td "
        "class=n>{:.3f}</td><td class=n>{}</td><td class=n>{:.3f}</td></tr>\n",
        escaped(who), missed, std::min(least, missed), 100 * r.hitRate(), r.misses, ratio(r, b.belady),
        ratio(r, b.apart), readableBytes(double(r.bytes)), r.seconds);
}

}  // namespace

Json replayJson(const ReplayTable& table) {
    Json budgets = Json::array();
    for (const ReplayBudget& b : table.budgets) {
        Json policies = Json::array();
        for (const ReplayRow& row : b.rows) {
            Json one = resultJson(row.result);
            one["policy"] = name(row.policy);
            one["decided"] = name(row.decided);
            one["ratio_to_belady"] = ratio(row.result, b.belady);
            one["ratio_to_belady_apart"] = ratio(row.result, b.apart);
            policies.push_back(std::move(one));
        }
        budgets.push_back({{"percent", b.percent},
                           {"slots", b.slots},
                           {"bytes", b.bytes},
                           {"belady", resultJson(b.belady)},
                           {"belady_apart", resultJson(b.apart)},
                           {"policies", policies},
                           {"best", name(best(b).policy)}});
    }
    return {{"file", table.file},     {"groups", table.groups},
            {"pages", table.pages},   {"page_bytes", table.page_bytes},
            {"visits", table.visits}, {"budgets", budgets}};
}

std::string replayText(const ReplayTable& table) {
    std::string text = fmt::format("{}: {}\n", table.file, aboutTrace(table));
    for (const ReplayBudget& b : table.budgets) {
        text += fmt::format("\n{}\n  {:<18} {:>9} {:>10} {:>9} {:>9} {:>12} {:>11}\n", aboutBudget(b), "policy",
                            "hit rate", "misses", "/ Belady", "/ apart", "read", "predicted s");
        for (const ReplayRow& row : b.rows) text += textRow(policyName(row), row.result, b);
        text += textRow("Belady", b.belady, b);
        text += textRow("Belady, apart", b.apart, b);
    }
    return text;
}

std::string replayHtml(const ReplayTable& table) {
    std::string html =
        pageHead("VkMoE replay") +
        fmt::format(
            "<h1>VkMoE replay</h1><p class=soft>{}: {}. A bar is the share of uses whose page was not in memory; its "
            "pale part is what Belady, who knows the future, misses as well. Apart: Belady with an equal share of the "
            "memory for each group.</p>\n",
            escaped(table.file), aboutTrace(table));
    for (const ReplayBudget& b : table.budgets) {
        html += fmt::format(
            "<h2>{}</h2><div class=scroll><table><tr><th>policy<th>missed<th class=n>hit rate<th class=n>misses<th "
            "class=n>/ Belady<th class=n>/ apart<th class=n>read<th class=n>predicted s</tr>\n",
            aboutBudget(b));
        for (const ReplayRow& row : b.rows) html += htmlRow(policyName(row), row.result, b);
        html += htmlRow("Belady", b.belady, b) + htmlRow("Belady, apart", b.apart, b) + "</table></div>\n";
    }
    return html + "</html>\n";
}

}  // namespace vkmoe::program
