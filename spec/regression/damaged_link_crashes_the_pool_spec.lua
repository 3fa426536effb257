-- SPDX-License-Identifier: MIT
-- Symptom: a worker had written over the memory that it shares with its pool, and the pool noticed while
-- it handed a job out: the job stayed there for ever, and the next one for this worker crashed the
-- program.

local concur = require "concur"
local support = require "spec.support"

local SCALE = support.time_scale

-- Where this lies in the shared memory: csrc/process_link.c.
local READ = 128

-- A job: writes over the shared memory, then ends as if nothing had happened.
local function scribble(offset, bytes)
  for line in io.lines "/proc/self/maps" do
    local base = line:match "^(%x+)%-.*memfd:concur"
    if base then
      local memory <close> = assert(io.open("/proc/self/mem", "r+b"))
      memory:setvbuf "no"
      memory:seek("set", tonumber(base, 16) + offset)
      assert(memory:write(bytes))
      return true
    end
  end
end

local function size_of(text) return #text end

describe("a worker that has scribbled over the shared memory", function()
  local big = ("x"):rep(3 << 20)

  it("is replaced when the pool finds that it cannot have read so far", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      assert.is_true(pool:run(scribble, READ, ("\x7F"):rep(8)))
      local first = pool:submit(size_of, big)
      concur.checkpoint() -- it is handed out
      local second = pool:submit(size_of, big)
      assert.equal(#big, first:result(20 * SCALE))
      assert.equal(#big, second:result(20 * SCALE))
      assert.equal(1, pool:stats().crashes)
    end)
  end)

  it("is replaced when nothing else happens that the pool would look for", function()
    local marker = support.tmpdir() .. "/crashed"
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 2, queue_size = 2 }
      local scribbled = pool:submit(scribble, READ, ("\x7F"):rep(8))
      local job = pool:options({ retry = 1 }):submit(function(path, text)
        if io.open(path) then return #text end
        io.open(path, "w"):close()
        os.execute "sleep 0.3"
        os.exit(1)
      end, marker, big)
      assert.is_true(scribbled:result(20 * SCALE)) -- its worker is the one that the other job is given
      assert.equal(#big, job:result(20 * SCALE))
      assert.equal(2, pool:stats().crashes)
    end)
  end)
end)
