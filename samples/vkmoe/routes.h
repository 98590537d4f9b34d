// Routes and introspection as JSON.
#pragma once

#include "samples/vkmoe/context.h"

namespace vkmoe::program {

// {"top_k":k,"experts":[[selection order] per token],"gates":[[final gates] per token]}
Json routesToJson(const Routes& routes);

// The same back; the error names the token and what is wrong with it.
Result<Routes> routesFromFile(const std::string& path, const Description& description, uint64_t tokens);

Json introspectionToJson(const Introspection& introspection);

}  // namespace vkmoe::program
