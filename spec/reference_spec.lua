-- SPDX-License-Identifier: MIT
-- The reference names everything that is public, and the page for users of asyncio names
-- everything that asyncio and concurrent.futures export.

local support = require "spec.support"

local function read_all(directory)
  local texts = {}
  for _, path in ipairs(support.files(directory, "%.md$")) do
    texts[#texts + 1] = support.read_file(support.root .. "/" .. path)
  end
  return table.concat(texts, "\n")
end

-- The words that stand in `code` or in code blocks of a page.
local function words_in_code(text)
  local words = {}
  local function add(code)
    for word in code:gmatch "[%a_][%w_]*" do
      words[word] = true
    end
  end
  text = text:gsub("```[^\n]*\n(.-)```", function(block)
    add(block)
    return ""
  end)
  for code in text:gmatch "`([^`\n]+)`" do
    add(code)
  end
  return words
end

-- Names of the functions and methods in the generated definitions of a module.
local function public_names(path)
  local names = {}
  for line in io.lines(support.root .. "/" .. path) do
    local name = line:match "^function [%w_]+[.:]([%w_]+)%("
      or line:match "^function concur%.[%w_]+[.:]([%w_]+)%("
    if name then
      names[#names + 1] = name
    end
  end
  return names
end

local function missing_from(words, names)
  local missing = {}
  for _, name in ipairs(names) do
    if not words[name] then
      missing[#missing + 1] = name
    end
  end
  return missing
end

describe("the reference", function()
  local words = words_in_code(read_all "docs/reference")

  for _, path in ipairs(support.files("types", "%.lua$")) do
    it("names every function and method of " .. path, function()
      local names = public_names(path)
      assert.is_true(#names > 0)
      assert.same({}, missing_from(words, names))
    end)
  end
end)

-- What `import asyncio` and `import concurrent.futures` offer in Python 3.8 to 3.14.
local PYTHON = [[
  ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION
  AbstractChildWatcher AbstractEventLoop AbstractEventLoopPolicy AbstractServer Barrier
  BaseEventLoop BaseProtocol BaseTransport BoundedSemaphore BrokenBarrierError BrokenExecutor
  BrokenProcessPool BrokenThreadPool BufferedProtocol CancelledError Condition DatagramProtocol
  DatagramTransport DefaultEventLoopPolicy Event EventLoop Executor FastChildWatcher
  FrameCallGraphEntry Future FutureCallGraph Handle IncompleteReadError InterpreterPoolExecutor
  InvalidStateError LifoQueue LimitOverrunError Lock MultiLoopChildWatcher PidfdChildWatcher
  PriorityQueue ProactorEventLoop ProcessPoolExecutor Protocol Queue QueueEmpty QueueFull
  QueueShutDown ReadTransport Runner SafeChildWatcher SelectorEventLoop Semaphore
  SendfileNotAvailableError Server StreamReader StreamReaderProtocol StreamWriter
  SubprocessProtocol SubprocessTransport Task TaskGroup ThreadPoolExecutor ThreadedChildWatcher
  Timeout TimeoutError TimerHandle Transport WriteTransport all_tasks as_completed
  capture_call_graph create_eager_task_factory create_subprocess_exec create_subprocess_shell
  create_task current_task eager_task_factory ensure_future format_call_graph
  future_add_to_awaited_by future_discard_from_awaited_by gather get_child_watcher get_event_loop
  get_event_loop_policy get_running_loop iscoroutine iscoroutinefunction isfuture new_event_loop
  open_connection open_unix_connection print_call_graph run run_coroutine_threadsafe
  set_child_watcher set_event_loop set_event_loop_policy shield sleep start_server
  start_unix_server timeout timeout_at to_thread wait wait_for wrap_future
]]

describe("the page for users of asyncio", function()
  it("names everything that asyncio and concurrent.futures export", function()
    local page = support.read_file(support.root .. "/docs/coming-from-asyncio.md")
    local names = {}
    for name in PYTHON:gmatch "%S+" do
      names[#names + 1] = name
    end
    assert.same({}, missing_from(words_in_code(page), names))
  end)
end)
