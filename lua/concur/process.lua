-- SPDX-License-Identifier: MIT
--
-- Other programs: started, talked to, ended in order, always reaped.
--
-- A `Process` is a child of the C core (csrc/process_class.c) with the streams of its pipes. `run`
-- is said with a group of tasks: one feeds the input, others collect the output; whatever happens,
-- the child is closed at the end, which ends it and everything in its process group.

local core = require "concur.core"
local concur = require "concur"
local errors = require "concur.errors"
local bad_argument = require("concur.arguments").bad

---Other programs as child processes.
---@class concur.process
local M = {}

local GRACE = 5 -- seconds from TERM to KILL
local LIMIT = 64 * 1024 * 1024 -- bytes of each output that `run` keeps
local PIECE = 65536 -- bytes of input that are written at once

---A program that was started.
---@class concur.process.Process
---@field stdin? concur.Stream what it reads; nil unless it is a pipe
---@field stdout? concur.Stream what it writes; nil unless it is a pipe
---@field stderr? concur.Stream nil unless it is a pipe
local Process = {}
Process.__index = Process
Process.__name = "concur.process.Process"
Process.__metatable = Process.__name

-- A process lives as long as anybody holds one of its streams.
local held_by_stream = setmetatable({}, { __mode = "k" })

-- Options ---------------------------------------------------------------------------------------

--[[@lua
---What `process.spawn` takes: the program and its arguments as a list, with options beside.
---@class concur.process.SpawnOptions
---@field [integer] string|number the program, then its arguments
---@field stdin? "pipe"|"inherit"|"null"|integer|file*
---@field stdout? "pipe"|"inherit"|"null"|integer|file*
---@field stderr? "pipe"|"inherit"|"null"|"stdout"|integer|file*
---@field cwd? string its directory
---@field env? table<string, string|number|false> variables to set; false removes one
---@field clear_env? boolean nothing else of this environment is inherited
---@field shell? boolean the first element is a command line for /bin/sh, the others its arguments
---@field group? boolean a session and process group of its own
---@field detached? boolean it is left alone when the object or the loop goes
---@field uid? integer of whom it runs as
---@field gid? integer
---@field grace? number seconds from TERM to KILL
local SpawnOptions = {}

---What `process.run` takes.
---@class concur.process.RunOptions: concur.process.SpawnOptions
---@field input? string what it reads from its stdin
---@field limit? number bytes of each output to collect at most
---@field check? boolean raise any failure
local RunOptions = {}

---How a program ended, and what it wrote.
---@class concur.process.Result
---@field code integer? its exit code, 0 to 255; nil when a signal ended it
---@field signal string? the name of the signal that ended it
---@field stdout string? nil where that was directed elsewhere
---@field stderr string?
local Result = {}
]]

local STANDARD = { "stdin", "stdout", "stderr" }

local SPAWN_OPTIONS = {
  stdin = "descriptor",
  stdout = "descriptor",
  stderr = "descriptor",
  cwd = "string",
  env = "table",
  clear_env = "boolean",
  shell = "boolean",
  group = "boolean",
  detached = "boolean",
  uid = "integer",
  gid = "integer",
  grace = "number",
}

local RUN_OPTIONS = { input = "string", check = "boolean", limit = "number" }
for name, expected in pairs(SPAWN_OPTIONS) do
  RUN_OPTIONS[name] = expected
end
RUN_OPTIONS.detached = nil

local function argument_error(name, text, ...)
  bad_argument(1, name, text, ...)
end

local function is_descriptor(key, value)
  if value == "pipe" or value == "inherit" or value == "null" then
    return true
  end
  return math.type(value) == "integer" and value >= 0 and value < 2 ^ 31
    or io.type(value) == "file"
    or key == "stderr" and value == "stdout"
end

local function check_option(name, key, value, expected)
  if expected == "descriptor" then
    if not is_descriptor(key, value) then
      argument_error(name, "option '%s': 'pipe', 'inherit', 'null', %sa descriptor or an open "
        .. "file expected, got %s", key, key == "stderr" and "'stdout', " or "", tostring(value))
    end
    return
  end
  local actual = expected == "integer" and math.type(value) or type(value)
  if actual ~= expected or value ~= value then
    argument_error(name, "option '%s': %s expected, got %s", key, expected, tostring(value))
  elseif (expected == "integer" or key == "limit") and value < 0 then
    argument_error(name, "option '%s' must not be negative", key)
  elseif expected == "string" and key ~= "input" and value:find("\0", 1, true) then
    argument_error(name, "option '%s' contains a zero byte", key)
  end
end

-- The program and its arguments, as strings.
local function check_command(name, options)
  local command = {}
  for i = 1, #options do
    local word = options[i]
    if type(word) ~= "string" and type(word) ~= "number" then
      argument_error(name, "element %d: string expected, got %s", i, type(word))
    end
    word = tostring(word)
    if word:find("\0", 1, true) then
      argument_error(name, "element %d contains a zero byte", i)
    end
    command[i] = word
  end
  if #command == 0 then
    argument_error(name, "the program is missing: a list of it and its arguments expected")
  end
  return command
end

local function check_options(name, options, known)
  if type(options) ~= "table" then
    argument_error(name, "table expected, got %s", type(options))
  end
  local command = check_command(name, options)
  for key, value in pairs(options) do
    local listed = math.type(key) == "integer" and key >= 1 and key <= #command
    if not listed and not known[key] then
      argument_error(name, "unknown option '%s'", tostring(key))
    elseif not listed then
      check_option(name, key, value, known[key])
    end
  end
  return command
end

-- The environment as a list of "NAME=value"; nil: that of this process.
local function environment(name, options)
  if not options.env and not options.clear_env then
    return nil
  end
  local variables = options.clear_env and {} or core.environment()
  for key, value in pairs(options.env or {}) do
    if type(key) ~= "string" or key == "" or key:find "[=\0]" then
      argument_error(name, "option 'env': '%s' cannot be a variable's name", tostring(key))
    elseif value == false then
      variables[key] = nil
    elseif type(value) ~= "string" and type(value) ~= "number" then
      argument_error(name, "option 'env': variable '%s': string or false expected, got %s",
        key, type(value))
    elseif tostring(value):find("\0", 1, true) then
      argument_error(name, "option 'env': variable '%s' contains a zero byte", key)
    else
      variables[key] = tostring(value)
    end
  end
  local list = {}
  for key, value in pairs(variables) do
    list[#list + 1] = key .. "=" .. value
  end
  return list
end

-- What the child gets as its descriptors 0, 1 and 2, as the C core wants it.
local function descriptors(options, defaults)
  local list = {}
  for i, key in ipairs(STANDARD) do
    local value = options[key]
    if value == nil then
      value = defaults[key]
    end
    if value == "inherit" then
      value = i - 1
    elseif value == "null" then
      value = false
    end
    list[i] = value
  end
  return list
end

-- Starting --------------------------------------------------------------------------------------

local PIPES = { stdin = "pipe", stdout = "pipe", stderr = "pipe" }

local function start(name, options, known, defaults, hold)
  local command = check_options(name, options, known)
  local shown = command[1]
  if options.shell then
    command = { "/bin/sh", "-c", command[1], "sh", table.unpack(command, 2) }
  end
  local group = options.group
  if group == nil then
    group = options.stdin ~= "inherit"
  end
  local child, stdin, stdout, stderr = core.spawn_process {
    file = command[1],
    args = command,
    env = environment(name, options),
    cwd = options.cwd,
    fds = descriptors(options, defaults),
    group = group,
    detached = options.detached,
    hold = hold,
    uid = options.uid,
    gid = options.gid,
    grace = options.grace or GRACE,
  }
  if not child then
    return nil, stdin -- the error
  end
  local self = { stdin = stdin, stdout = stdout, stderr = stderr, _child = child, _name = shown }
  setmetatable(self, Process)
  for _, key in ipairs(STANDARD) do
    if self[key] then
      held_by_stream[self[key]] = self
    end
  end
  return self
end

---Starts a program. `options` is a list of the program and its arguments, with options beside:
---
--- - `stdin`, `stdout`, `stderr`: `"pipe"` (default; a stream of the process object), `"inherit"`,
---   `"null"`, a descriptor, an open Lua file; for `stderr` also `"stdout"`: where that goes
--- - `cwd`: its directory
--- - `env`: variables to set, `false` removes one; the others are inherited unless `clear_env`
--- - `shell`: the first element is a command line for `/bin/sh`, the others are its `$1`, `$2`, ...
---   Never put text from elsewhere into a command line: give it as such an argument.
--- - `group`: a session and process group of its own, which is ended as a whole; default: true unless
---   `stdin` is inherited
--- - `detached`: it is left alone when the process object or the loop goes
--- - `uid`, `gid`: of whom it runs as; needs the rights
--- - `grace`: seconds from TERM to KILL when it is ended (5)
---
---Never suspends.
---@param options concur.process.SpawnOptions
---@return concur.process.Process?
---@return concur.Error? err `OSError` with `path`: no such program or directory, no permission, ...
function M.spawn(options)
  return start("spawn", options, SPAWN_OPTIONS, PIPES, false)
end

-- Process ---------------------------------------------------------------------------------------

local function signal_number(signal)
  if math.type(signal) == "integer" then
    if signal < 0 or signal > 64 then
      argument_error("kill", "there is no signal %d", signal)
    end
    return signal
  elseif type(signal) ~= "string" then
    argument_error("kill", "name or number of a signal expected, got %s", type(signal))
  end
  local number = core.signal_number(signal)
  if not number then
    argument_error("kill", "signal '%s': there is no such signal on this system; names are like "
      .. "'SIGTERM'", signal)
  end
  return number
end

-- The C part of a process object; raises when there is none: process.kill(...) instead of a colon.
local function child_of(self, name)
  local child = type(self) == "table" and self._child
  if not child then
    argument_error(name, "process expected, got %s; is it called with a colon?", type(self))
  end
  return child
end

---The process id. After the end of the process it may belong to another one.
---@return integer
function Process:pid()
  return child_of(self, "pid"):pid()
end

---Waits until the process has ended. This reads nothing: a child that writes more than a pipe holds
---waits for somebody who does.
---@async
---@return integer? code its exit code, 0 to 255; nil when a signal ended it
---@return string? signal the name of the signal that ended it
function Process:wait()
  return child_of(self, "wait"):wait()
end

---An arm for `concur.select` that waits until the process has ended; its results are those of `wait`.
---@return concur.Arm
function Process:waiting()
  return child_of(self, "waiting"):waiting()
end

---Whether it still runs, as far as the loop has noticed. Never suspends.
---@return "running"|"ended" state
---@return integer? code as from `wait`
---@return string? signal
function Process:status()
  local state, code, signal = child_of(self, "status"):state()
  return state == "running" and state or "ended", code, signal
end

---Sends a signal to the process (not to its group). Never suspends.
---@param signal? string|integer `"SIGTERM"` without
---@return true?
---@return concur.Error? err `OSError`: `ESRCH` when it has ended
function Process:kill(signal)
  local child = child_of(self, "kill")
  return child:kill(signal == nil and signal_number "SIGTERM" or signal_number(signal))
end

---Ends the process, if it still runs, and closes its streams: TERM, after the grace time KILL, to
---its whole group if it has one of its own; then it is reaped. The wait is shielded from
---cancellation; where waiting is impossible it goes on in the background. Idempotent. Also by
---`<close>`.
---@async
---@param grace? number seconds; default: the option `grace`
function Process:close(grace)
  if grace ~= nil and (type(grace) ~= "number" or grace ~= grace) then
    argument_error("close", "seconds expected, got %s", tostring(grace))
  end
  child_of(self, "close"):ask_to_end(grace)
  if self.stdin then
    self.stdin:close(0)
  end
  self._child:join()
  -- Not before: what it says to its end shall not kill it by SIGPIPE.
  if self.stdout then
    self.stdout:close(0)
  end
  if self.stderr then
    self.stderr:close(0)
  end
end

function Process:__close()
  return self:close()
end

function Process:__tostring()
  local state, code, signal = self:status()
  if state ~= "running" then
    state = signal and "ended by " .. signal or "ended with code " .. tostring(code)
  end
  return ("concur.process.Process (%s, pid %d, %s)"):format(self._name, self:pid(), state)
end

-- Running to the end ----------------------------------------------------------------------------

-- Writes the input, in pieces. A child that does not read it all, or at all, is no error. The stream
-- is found closed when the task of `run` was killed and this one is left.
local function feed(stream, input)
  local ok, err
  for position = 1, #input, PIECE do
    if stream:closed() then
      return
    end
    ok, err = stream:write(input:sub(position, position + PIECE - 1))
    if not ok then
      break
    end
  end
  if ok then
    ok, err = stream:flush()
  end
  stream:close(0)
  if not ok and err and err.kind ~= "Closed" and err.code ~= "EPIPE" then
    return err
  end
end

-- Reads all of it, up to the limit.
local function collect(stream, limit, into)
  local size = 0
  while not stream:closed() do
    local piece, err = stream:read_some()
    if not piece then
      return err
    end
    size = size + #piece
    if size > limit then
      into[#into + 1] = piece:sub(1, math.floor(#piece - (size - limit)))
      return errors.new("LimitOverrun", ("the program wrote more than %.0f bytes"):format(limit))
    end
    into[#into + 1] = piece
  end
end

-- Feeds and collects until both outputs have ended and the child too. Returns the first error.
local function communicate(process, options, stdout, stderr)
  local limit = options.limit or LIMIT
  local failure
  concur.task_group(function(group)
    local function watch(fn, ...)
      local err = fn(...)
      if err then
        failure = failure or err
        group:cancel()
      end
    end
    if process.stdin then
      group:spawn(watch, feed, process.stdin, options.input or "")
    end
    local other = process.stderr and group:spawn(watch, collect, process.stderr, limit, stderr)
    if process.stdout then
      watch(collect, process.stdout, limit, stdout)
    end
    if other then
      other:result()
    end
    process:wait()
    if process.stdin then
      process.stdin:close(0) -- who should read it has gone
    end
  end)
  return failure
end

local function describe_end(process, result)
  local how = result.signal and "was ended by " .. result.signal
    or result.code and "exited with code " .. result.code
    or "ended, and something else took its exit status"
  local last = (result.stderr or ""):match "([^\n]+)%s*$"
  return ("%s %s%s"):format(process._name, how, last and ": " .. last or "")
end

-- Returns the result, or nil and an error.
local function run(options)
  local defaults = { stdin = "null", stdout = "pipe", stderr = "pipe" }
  if type(options) == "table" and options.input ~= nil then
    if options.stdin ~= nil then
      argument_error("run", "options 'input' and 'stdin' exclude each other")
    end
    defaults.stdin = "pipe"
  end
  local process, err = start("run", options, RUN_OPTIONS, defaults, true)
  if not process then
    return nil, err
  end
  local closing <close> = process -- luacheck: ignore 211
  local stdout, stderr = {}, {}
  local failure = communicate(process, options, stdout, stderr)
  local result = failure or {}
  result.stdout = process.stdout and table.concat(stdout)
  result.stderr = process.stderr and table.concat(stderr)
  if failure then
    return nil, failure
  end
  local _
  _, result.code, result.signal = process:status()
  process._child:let_go() -- what it has left in the background may go on
  if options.check and result.code ~= 0 then
    return nil, errors.new("ProcessError", describe_end(process, result), result)
  end
  return result
end

---Runs a program to its end. Options are those of `spawn` (less `detached`), and
---
--- - `input`: a string that it reads from its stdin, of any size
--- - `limit`: bytes of each output to collect at most (64 MiB); `math.huge`: no limit
--- - `check`: raise any failure, and `ProcessError` if it does not end with code 0
---
---Without `input` its stdin is `"null"`; stdout and stderr are collected unless they are directed
---elsewhere. It is over when the outputs have ended (all who hold them have closed them) and the
---program too. Cancelled, or with an error: TERM, after the grace time KILL, to its whole group, and
---reaped, before this returns.
---@async
---@param options concur.process.RunOptions
---@return concur.process.Result? result
---@return concur.Error? err `OSError`; `LimitOverrun` with `stdout`, `stderr` as far as collected
function M.run(options)
  local check = type(options) == "table" and options.check
  local result, err = run(options)
  if not result and check then
    error(err, 0)
  end
  return result, err
end

return M
