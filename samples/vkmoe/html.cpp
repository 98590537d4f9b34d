#include "samples/vkmoe/html.h"

#include <fmt/format.h>

namespace vkmoe::program {
namespace {

const char* kStyle = R"(
:root{color-scheme:light dark;--ink:#1d2733;--soft:#6b7786;--line:#d9dee5;--page:#fbfcfd;--bar:#2f6f9f;--good:#1d7a46;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#97a3b2;--line:#313b47;--page:#14191f;--bar:#6db0df;--good:#5cc98c;--bad:#ff8a80}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p{margin:.3rem 0}small,.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{text-align:left;font-weight:600}
th,td{padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}
code{font:.92em ui-monospace,monospace}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}.scroll{overflow-x:auto}
)";

}  // namespace

std::string escaped(const std::string& text) {
    std::string out;
    for (char c : text) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

std::string pageHead(const std::string& title) {
    return fmt::format(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        "content='width=device-width'><title>{}</title><style>{}</style>\n",
        escaped(title), kStyle);
}

}  // namespace vkmoe::program
