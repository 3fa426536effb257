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
    ["concur.error_text"] = "lua/concur/error_text.lua",
    ["concur.error_tree"] = "lua/concur/error_tree.lua",
    ["concur.errors"] = "lua/concur/errors.lua",
    ["concur.event_loop"] = "lua/concur/event_loop.lua",
    ["concur.executor"] = "lua/concur/executor.lua",
    concur = "lua/concur/init.lua",
    ["concur.module_proxy"] = "lua/concur/module_proxy.lua",
    ["concur.module_worker"] = "lua/concur/module_worker.lua",
    ["concur.net"] = "lua/concur/net.lua",
    ["concur.progress"] = "lua/concur/progress.lua",
    ["concur.serialize"] = "lua/concur/serialize.lua",
    ["concur.sync"] = "lua/concur/sync.lua",
    ["concur.tasks"] = "lua/concur/tasks.lua",
    ["concur.testing"] = "lua/concur/testing.lua",
    ["concur.core"] = {
      sources = {
        "csrc/await.c",
        "csrc/bytes.c",
        "csrc/call.c",
        "csrc/call_future.c",
        "csrc/callback.c",
        "csrc/channel.c",
        "csrc/channel_arms.c",
        "csrc/channel_cell.c",
        "csrc/channel_class.c",
        "csrc/classes.c",
        "csrc/code.c",
        "csrc/context_var.c",
        "csrc/decode.c",
        "csrc/default_pool.c",
        "csrc/disposition.c",
        "csrc/encode.c",
        "csrc/encode_function.c",
        "csrc/encode_object.c",
        "csrc/environment.c",
        "csrc/executor.c",
        "csrc/executor_close.c",
        "csrc/fiber.c",
        "csrc/future.c",
        "csrc/generator.c",
        "csrc/group.c",
        "csrc/handle.c",
        "csrc/heap.c",
        "csrc/hooks.c",
        "csrc/identity.c",
        "csrc/interrupt.c",
        "csrc/join.c",
        "csrc/loop.c",
        "csrc/mailbox.c",
        "csrc/message.c",
        "csrc/module.c",
        "csrc/modules.c",
        "csrc/options.c",
        "csrc/parking.c",
        "csrc/place.c",
        "csrc/platform.c",
        "csrc/pool.c",
        "csrc/pool_class.c",
        "csrc/pool_job.c",
        "csrc/pool_shutdown.c",
        "csrc/pool_thread.c",
        "csrc/pool_wait.c",
        "csrc/process.c",
        "csrc/process_class.c",
        "csrc/queue.c",
        "csrc/reply.c",
        "csrc/report.c",
        "csrc/run.c",
        "csrc/scan.c",
        "csrc/scope.c",
        "csrc/scope_api.c",
        "csrc/select.c",
        "csrc/shared_buffer.c",
        "csrc/shared_buffer_numbers.c",
        "csrc/shortcut.c",
        "csrc/sigint.c",
        "csrc/socket.c",
        "csrc/stream.c",
        "csrc/stream_read.c",
        "csrc/stream_write.c",
        "csrc/support.c",
        "csrc/suspend.c",
        "csrc/sync.c",
        "csrc/task.c",
        "csrc/task_end.c",
        "csrc/task_pool.c",
        "csrc/terminal.c",
        "csrc/thread_pool.c",
        "csrc/transfer.c",
        "csrc/wait_fd.c",
        "csrc/watch.c",
        "csrc/worker.c",
      },
      defines = { "_GNU_SOURCE" },
      incdirs = { "$(LIBUV_INCDIR)" },
      libdirs = { "$(LIBUV_LIBDIR)" },
      libraries = { "uv", "pthread" },
    },
  },
}
