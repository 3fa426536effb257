-- SPDX-License-Identifier: MIT
-- What every spec shares: child interpreters, temporary files, seeds, and the counts that show
-- whether a spec left something behind.
--
-- spec/support/busted.lua loads this file before any spec and checks for leaks after each one.
-- Settings come from the environment, so that the same suite runs plain, under a sanitizer and
-- against another build: CONCUR_LUA (interpreter), CONCUR_BUILD (where concur/core.so lies),
-- CONCUR_TIME_SCALE (how much slower than usual this run is), CONCUR_SEED.

local lfs = require "lfs"

local support = {}

support.root = assert(lfs.currentdir())
if not lfs.attributes(support.root .. "/spec/support/init.lua") then
  error("run the suite from the root of the repository", 0)
end

local function absolute(path)
  return path:sub(1, 1) == "/" and path or support.root .. "/" .. path
end

support.build = absolute(os.getenv "CONCUR_BUILD" or "build")
support.time_scale = tonumber(os.getenv "CONCUR_TIME_SCALE") or 1
support.under_valgrind = (os.getenv "LD_PRELOAD" or ""):find "valgrind" ~= nil

local interpreter = os.getenv "CONCUR_LUA" or "lua5.4"
support.lua = interpreter:find("/", 1, true) and absolute(interpreter) or interpreter

-- The program that embeds Lua with an allocator that can fail (spec/host/host.c).
support.host = support.build .. "/testhost"

-- ---------------------------------------------------------------------------------------------
-- Files
-- ---------------------------------------------------------------------------------------------

---Quotes a word for the shell.
---@param word string
---@return string
function support.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

---The whole content of a file; raises if it cannot be read.
---@param path string
---@return string
function support.read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

---Writes a whole file; raises if it cannot be written.
---@param path string
---@param content string
function support.write_file(path, content)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(content))
end

local temporary = {}

---A new empty directory, removed with all its content when the spec ends.
---@return string path absolute
function support.tmpdir()
  local path = os.tmpname()
  os.remove(path)
  path = path .. ".d"
  assert(lfs.mkdir(path))
  temporary[#temporary + 1] = path
  return path
end

---Removes what `tmpdir` made. Called after each spec.
function support.remove_tmpdirs()
  for i = #temporary, 1, -1 do
    os.execute("rm -rf " .. support.quote(temporary[i]))
    temporary[i] = nil
  end
end

---Paths of the files below `directory` (relative to the root) whose names match, sorted.
---@param directory string
---@param pattern string Lua pattern of the file's name
---@return string[] paths relative to the root; empty if there is no such directory
function support.files(directory, pattern)
  local found = {}
  local function walk(path)
    for name in lfs.dir(support.root .. "/" .. path) do
      local child = path .. "/" .. name
      if name:sub(1, 1) ~= "." then
        local mode = lfs.attributes(support.root .. "/" .. child, "mode")
        if mode == "directory" then
          walk(child)
        elseif name:find(pattern) then
          found[#found + 1] = child
        end
      end
    end
  end
  if lfs.attributes(support.root .. "/" .. directory, "mode") == "directory" then
    walk(directory)
  end
  table.sort(found)
  return found
end

-- ---------------------------------------------------------------------------------------------
-- Other programs
-- ---------------------------------------------------------------------------------------------

---@class support.Result
---@field code integer? exit code, nil when a signal ended the program
---@field signal integer? the signal that ended the program
---@field timed_out boolean it ran longer than allowed and was killed
---@field stdout string
---@field stderr string

---Runs a program and waits for it. Its arguments reach it byte for byte.
---@param argv string[] program and arguments
---@param options? table `timeout` in seconds (20, times the time scale), `env`: table of variables
---  to set (`false` removes one), `cwd`, `stdin`: the program's input (empty)
---@return support.Result
function support.execute(argv, options)
  options = options or {}
  local directory = support.tmpdir()
  local out, err = directory .. "/stdout", directory .. "/stderr"
  local input = "/dev/null"
  if options.stdin then
    input = directory .. "/stdin"
    support.write_file(input, options.stdin)
  end

  local words = {}
  local function add(...)
    for _, word in ipairs { ... } do
      words[#words + 1] = support.quote(word)
    end
  end
  words[1] = "cd " .. support.quote(options.cwd or support.root) .. " && exec"
  add("env")
  for name, value in pairs(options.env or {}) do
    if value == false then
      add("-u", name)
    end
  end
  for name, value in pairs(options.env or {}) do
    if value then
      add(name .. "=" .. value)
    end
  end
  local limit = (options.timeout or 20) * support.time_scale
  add("timeout", "-k", "5", ("%.3f"):format(limit), table.unpack(argv))
  words[#words + 1] = (">%s 2>%s <%s"):format(support.quote(out), support.quote(err),
    support.quote(input))

  local _, how, number = os.execute(table.concat(words, " "))
  local exited = how == "exit"
  return {
    code = exited and number or nil,
    signal = not exited and number or nil,
    timed_out = exited and number == 124,
    stdout = support.read_file(out),
    stderr = support.read_file(err),
  }
end

---Runs a Lua file in a child interpreter that finds concur in this tree.
---@param path string
---@param options? table as for `execute`, and `args`, a list of arguments of the script, and `lua`,
---the interpreter (`support.host`: the test host)
---@return support.Result
function support.run_file(path, options)
  options = options or {}
  local env = {
    LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
    LUA_CPATH = support.build .. "/?.so;;",
    LUA_PATH_5_4 = false,
    LUA_CPATH_5_4 = false,
  }
  for name, value in pairs(options.env or {}) do
    env[name] = value
  end
  local argv = { options.lua or support.lua, path, table.unpack(options.args or {}) }
  return support.execute(argv, {
    timeout = options.timeout,
    env = env,
    cwd = options.cwd,
    stdin = options.stdin,
  })
end

---Runs Lua code in a child interpreter that finds concur in this tree.
---@param code string
---@param options? table as for `run_file`
---@return support.Result
function support.run_lua(code, options)
  local path = support.tmpdir() .. "/script.lua"
  support.write_file(path, code)
  return support.run_file(path, options)
end

---Like `run_lua`, and raises with all that the child printed unless it exits with code 0.
---@param code string
---@param options? table as for `run_file`
---@return string stdout
function support.check_lua(code, options)
  local result = support.run_lua(code, options)
  if result.code ~= 0 then
    error(support.describe(result), 2)
  end
  return result.stdout
end

---A result of `execute` as text, for the message of a failed assertion.
---@param result support.Result
---@return string
function support.describe(result)
  local ended = result.timed_out and "ran out of time"
    or result.signal and "was ended by signal " .. result.signal
    or "exited with code " .. result.code
  return ("the child %s\n-- stdout --\n%s\n-- stderr --\n%s"):format(ended, result.stdout,
    result.stderr)
end

---Is there such a command?
---@param name string
---@return boolean
function support.has_command(name)
  return (os.execute("command -v " .. support.quote(name) .. " >/dev/null 2>&1")) == true
end

---The id of this process.
---@return integer
function support.pid()
  local file <close> = assert(io.open "/proc/self/stat")
  return file:read "n"
end

---The children of this process, zombies included, that are there now.
---@return string[] lines "<pid> (<name>) <state>"
function support.children()
  local own, found = support.pid(), {}
  for id in lfs.dir "/proc" do
    local file = id:find "^%d+$" and io.open("/proc/" .. id .. "/stat")
    if file then
      local name, state, parent = (file:read "a" or ""):match "^%d+ (%b()) (%a) (%d+)"
      file:close()
      if tonumber(parent) == own then
        found[#found + 1] = ("%s %s %s"):format(id, name, state)
      end
    end
  end
  return found
end

---Sends a signal after a while, from another process. Never waits.
---@param seconds number
---@param signal string "INT", "TERM", ...
---@param pid? integer this process
function support.signal_after(seconds, signal, pid)
  os.execute(("(sleep %.3f; kill -%s %d) >/dev/null 2>&1 &"):format(
    seconds * support.time_scale, signal, pid or support.pid()))
end

-- ---------------------------------------------------------------------------------------------
-- Seeds
-- ---------------------------------------------------------------------------------------------

---Seeds `math.random` and returns the seed: CONCUR_SEED if it is set, else a new one. When the
---spec fails, the seed is shown with it.
---@return integer
function support.seed()
  local seed = math.tointeger(tonumber(os.getenv "CONCUR_SEED"))
  if not seed then
    math.randomseed()
    seed = math.random(1, 2 ^ 31 - 1)
  end
  math.randomseed(seed)
  support.last_seed = seed
  return seed
end

---The name of the spec that runs, with those of the describes around it.
---@type string
support.current_name = "?"

-- ---------------------------------------------------------------------------------------------
-- What is alive
-- ---------------------------------------------------------------------------------------------

local function count_entries(path)
  local count = 0
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then
      count = count + 1
    end
  end
  return count
end

local has_proc = lfs.attributes("/proc/self/fd", "mode") == "directory"

---How many descriptors this process has open; 0 where there is no /proc.
---@return integer
function support.fds()
  return has_proc and count_entries "/proc/self/fd" - 1 or 0 -- the listing itself holds one
end

---How many threads this process has; 0 where there is no /proc.
---@return integer
function support.threads()
  return has_proc and count_entries "/proc/self/task" or 0
end

---What concur counts by itself (tasks, timers, handles, scopes, jobs, ...); empty before it is
---loaded.
---@return table<string, integer>
function support.counters()
  local core = package.loaded["concur.core"]
  return core and core.counters() or {}
end

-- What concur counts that must be gone when a spec ends, even before its loop closes.
local LIVE = { "tasks", "timers", "handles", "scopes", "jobs" }

---Everything that a spec could leave behind.
---@return table<string, integer>
function support.snapshot()
  local all = { descriptors = support.fds(), threads = support.threads() }
  local counters = support.counters()
  for _, name in ipairs(LIVE) do
    all[name] = counters[name]
  end
  return all
end

local function grown(before, after)
  local lines = {}
  for name, value in pairs(after) do
    if value > (before[name] or 0) then
      lines[#lines + 1] = ("%s: %d before, %d after"):format(name, before[name] or 0, value)
    end
  end
  table.sort(lines)
  return lines
end

local function wait_until_gone(before)
  local lines
  for attempt = 1, 20 do
    collectgarbage()
    lines = grown(before, support.snapshot())
    if #lines == 0 then
      return lines
    end
    if attempt > 2 then
      os.execute "sleep 0.05" -- a thread that was joined leaves /proc a moment later
    end
  end
  return lines
end

---Names what has come to life since `before` and is still there. Closes this state's loop.
---@param before table a `snapshot`
---@return string[] lines empty when all is clean
function support.leaks(before)
  collectgarbage()
  local counters, still = support.counters(), {}
  for _, name in ipairs(LIVE) do
    if (counters[name] or 0) > (before[name] or 0) then
      still[name] = counters[name]
    end
  end
  local lines = grown(before, still)
  local concur = package.loaded["concur"]
  if concur then
    concur.get_event_loop():close()
  end
  for _, line in ipairs(wait_until_gone(before)) do
    lines[#lines + 1] = line .. " (after the loop was closed)"
  end
  return lines
end

return support
