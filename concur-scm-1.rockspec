rockspec_format = "3.0"
package = "concur"
version = "scm-1"

source = {
  url = "file://.", -- `luarocks make` builds the tree it stands in; a release names its archive
}

description = {
  summary = "Event loop, tasks, futures and executors for Lua",
  detailed = [[
concur gives Lua what Python has in asyncio and concurrent.futures: an event loop, tasks, futures
and executors. Code is written top to bottom, C threads do the blocking work, and CPU work runs on
all cores.]],
  license = "MIT",
  labels = { "async", "concurrency", "threads", "libuv" },
}

dependencies = {
  "lua >= 5.4, < 5.6",
}

external_dependencies = {
  LIBUV = { header = "uv.h", library = "uv" },
}

build = {
  type = "builtin",
  modules = {
    ["concur.errors"] = "lua/concur/errors.lua",
    ["concur.progress"] = "lua/concur/progress.lua",
    ["concur.core"] = {
      sources = {
        "csrc/heap.c",
        "csrc/mailbox.c",
        "csrc/support.c",
        "csrc/terminal.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = { "$(LIBUV_INCDIR)" },
      libdirs = { "$(LIBUV_LIBDIR)" },
      libraries = { "uv", "pthread" },
    },
  },
}
