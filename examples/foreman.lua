-- SPDX-License-Identifier: MIT
-- A small foreman: keeps programs running, shows what they say, starts the ones again that fail, and
-- on SIGTERM or Ctrl-C ends them all, with everything that they have started.
--
--     lua examples/foreman.lua "web=python3 -m http.server 8000" "date=while date; do sleep 1; done"
--
-- Without arguments it shows itself with three small programs, for half a second.

local concur = require "concur"
local process, signal = concur.process, concur.signal

local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30 -- seconds before a program is started again

local function say(name, text)
  io.write(("%-8s| %s\n"):format(name, text))
end

local function describe(code, by)
  return by and "was ended by " .. by or "exited with code " .. tostring(code)
end

-- Runs one command until it ends by itself with code 0.
local function keep_running(name, command)
  local pause = FIRST_PAUSE
  while true do
    local child <close> = assert(process.spawn { command, shell = true, stdin = "null",
      stderr = "stdout", grace = 2 })
    for line in child.stdout:lines() do
      say(name, line)
    end
    local code, by = child:wait()
    say(name, describe(code, by))
    if code == 0 then
      return
    end
    concur.sleep(pause)
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
end

local function main(commands)
  concur.task_group(function(all)
    all:spawn(concur.task_group, function(group)
      for name, command in pairs(commands) do
        group:spawn(keep_running, name, command)
      end
    end):add_done_callback(function()
      all:cancel() -- nothing is left to run
    end)
    for name in signal.receive("SIGTERM", "SIGINT") do
      say("foreman", name .. ": ending all")
      all:cancel()
    end
  end)
  say("foreman", "done")
end

local commands = {}
for _, argument in ipairs(arg) do
  local name, command = argument:match "^(%w+)=(.+)$"
  commands[assert(name, "usage: foreman.lua NAME=COMMAND ...")] = command
end

if next(commands) == nil then
  commands = {
    once = "echo one job, then the end",
    fails = "echo trying >&2; exit 3",
    always = "sleep 60 & while :; do echo working; sleep 0.2; done",
  }
  concur.spawn(function()
    concur.sleep(0.5)
    signal.raise "SIGTERM"
  end)
end

concur.main(main, commands)
