-- SPDX-License-Identifier: MIT
-- Faults: the 1st, 2nd, 3rd... call of something that can fail does fail, until the scenario
-- succeeds untouched. Each failure is an error that says so, or a failed future; nothing crashes,
-- leaks or waits for ever, and the loop is usable afterwards.
--
-- The stock interpreter cannot do this, so a scenario runs in the test host (spec/host/host.c) and
-- with a module of its own (spec/host/wraps.c). `make faults` tries every single call, the ordinary
-- suite leaves out some of the later ones.

local support = require "spec.support"

local faults = {}

-- `make faults` asks for everything.
faults.thorough = os.getenv "CONCUR_FAULTS" == "all"

-- What can fail together. `uv:` marks libuv's own allocations.
faults.memory = "malloc calloc realloc uv:malloc uv:calloc"
faults.threads = "uv_thread_create"
faults.primitives = "uv_mutex_init uv_mutex_init_recursive uv_cond_init"
faults.loop = "uv_loop_init uv_timer_init uv_async_init"
-- libuv 1.44 forgets the epoll descriptor when one of the others is refused to a new loop.
faults.epoll = "epoll_create1"
faults.descriptors = "socket socketpair accept4 pipe2 fcntl"
faults.handles = "uv_tcp_init uv_pipe_init uv_poll_init uv_tcp_open uv_pipe_open uv_tcp_bind "
  .. "uv_tcp_connect uv_poll_start uv_read_start uv_write uv_shutdown"
faults.sharing = "memfd_create ftruncate mmap"
-- With EINTR, which is no error; with EAGAIN, the second: there was nothing after all.
faults.interrupted = "epoll_wait epoll_pwait read write readv writev recvmsg sendmsg recv send "
  .. "sendto accept4 poll waitpid"
faults.in_vain = "readv writev recvmsg sendmsg recv send sendto accept4"
-- With ENOBUFS: the system has no room to send from, for the moment.
faults.no_room = "write writev sendmsg send"

-- The errno that goes with them.
local ERRNO = { [faults.interrupted] = 4, [faults.in_vain] = 11, [faults.no_room] = 105 }

-- Around a scenario: what it may use, and that the loop works after a failure.
local FRAME = [[
  local concur = require "concur"
  local errors = require "concur.errors"
  local runner = concur.Runner { clock = %s, on_error = function() end }
  local function scenario()
    %s
  end
  %s
  %s
  arm()
  local ok, err = pcall(scenario)
  disarm()
  assert(runner:run(function()
    concur.sleep(0.001)
    return concur.gather(function() concur.sleep(0.001) return 7 end)
  end) == 7, "the loop is not usable")
  assert(#concur.all_tasks() == 0, "a task is left")
  %s
  if not ok then
    error(tostring(err), 0)
  end
]]

local JOBS = [[assert(concur.to_thread(math.abs, -7) == 7, "the default pool is not usable")]]

---Puts a scenario's body into the frame. It may use `concur`, `errors` and `runner`.
---@param body string
---@param options? table `real`: the clock is not virtual; `cold`: nothing was used before, else the
---scenario was run once untouched; `fresh`: after that the loop was closed; `jobs`: the default
---pool must work afterwards as well
---@return string code
function faults.frame(body, options)
  options = options or {}
  return FRAME:format(options.real and "nil" or "concur.testing.Clock()", body,
    options.cold and "" or "scenario()", options.fresh and "concur.get_event_loop():close()" or "",
    options.jobs and JOBS or "")
end

---The environment of a program that finds concur in this tree, and the specs' support.
---@param with_faults boolean the module whose calls can fail
---@return table<string, string>
function faults.environment(with_faults)
  return {
    LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;"
      .. support.root .. "/?.lua;" .. support.root .. "/?/init.lua;;",
    LUA_CPATH = (with_faults and support.build .. "/faults/?.so;" or "") .. support.build
      .. "/?.so;;",
  }
end

-- `make faults` leaves its figures in a file, a line for each scenario: the spec's name, what failed,
-- how many in a row, runs with a failure, calls that failed, seconds.
---@param functions string what failed
---@param times string how many in a row
function faults.note(functions, times, ...)
  if not faults.thorough then
    return
  end
  local file <close> = assert(io.open(support.build .. "/faults.tsv", "a"))
  file:write(table.concat({ support.current_name, functions, times, ... }, "\t"), "\n")
end

---Runs the code, which calls arm() and disarm(), with each call of `functions` failing in turn:
---a few in a row (a shortage that passes: clean-up succeeds again), then without end. An error must
---match one of the patterns `allowed`.
---@param code string
---@param functions string|false names between spaces; false: allocations of the Lua state
---@param allowed string[]
---@param options? table `errno`: what those say that set one; `times`: instead of { "2", "all" }
function faults.fail_cleanly(code, functions, allowed, options)
  options = options or {}
  local directory = support.tmpdir()
  support.write_file(directory .. "/scenario.lua", code)
  for _, times in ipairs(options.times or { "2", "all" }) do
    local start = os.time()
    local result = support.execute({
      support.host, "spec/support/fault_driver.lua", directory .. "/scenario.lua", times,
      functions and " " .. functions .. " " or "", tostring(options.errno or ERRNO[functions] or 0),
      table.concat(allowed, "|"), os.getenv "CONCUR_FAULTS" or "",
    }, {
      timeout = faults.thorough and 1200 or 60,
      env = faults.environment(functions ~= false),
    })
    if result.code ~= 0 then
      error(("%s in a row: %s"):format(times, support.describe(result)), 0)
    end
    local runs, calls = result.stdout:match "^(%d+)%s+(%d+)"
    if tonumber(runs) < 1 then
      error("the scenario calls nothing of this", 0)
    end
    faults.note(functions or "lua_Alloc", times, runs, calls, os.time() - start)
  end
end

return faults
