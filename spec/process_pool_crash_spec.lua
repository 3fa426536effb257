-- SPDX-License-Identifier: MIT
-- Process pools whose workers crash, are killed at any moment, or lie: every job ends exactly once.
-- CONCUR_KILLS says how many workers the random spec kills (200).

local children = require "spec.support.children"
local concur = require "concur"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local support = require "spec.support"

local SCALE = support.time_scale
local KILLS = math.tointeger(os.getenv "CONCUR_KILLS") or 200

local function add(a, b)
  return a + b
end

local function set_of(list)
  local set = {}
  for _, value in ipairs(list) do
    set[value] = true
  end
  return set
end

-- The words that start a worker, for a shell.
local function worker_words()
  local quoted = {}
  for i, word in ipairs(require("concur.process_worker").command()) do
    quoted[i] = support.quote(word)
  end
  return table.concat(quoted, " ")
end

describe("a process pool", function()
  local before, descriptors

  before_each(function()
    before = children()
    descriptors = support.fds()
  end)

  after_each(function()
    assert.same(before, children())
    concur.get_event_loop():close()
    assert.is_true(support.fds() <= descriptors)
  end)

  -- The processes that the pool has started.
  local function workers()
    local known, found = set_of(before), {}
    for _, pid in ipairs(children()) do
      if not known[pid] then
        found[#found + 1] = pid
      end
    end
    return found
  end

  describe("survives", function()
    for name, case in pairs {
      ["os.exit"] = { function() os.exit(5) end, 5 },
      ["os.exit that says all is well"] = { function() os.exit(true, true) end, 0 },
      ["SIGKILL"] = { function() os.execute "kill -KILL $PPID" end, nil, "SIGKILL" },
      ["SIGSEGV"] = { function() os.execute "kill -SEGV $PPID" end, nil, "SIGSEGV" },
      ["a signal without a name"] = { function() os.execute "kill -40 $PPID" end, nil, "SIG40" },
      ["SIGABRT"] = { function() os.execute "kill -ABRT $PPID" end, nil, "SIGABRT" },
    } do
      it(name, function()
        local plain = "ASAN_OPTIONS=handle_segv=0:handle_abort=0 TSAN_OPTIONS=handle_segv=0 exec "
        local pool <close> = concur.ProcessPoolExecutor {
          workers = 1,
          name = "mill",
          command = { "sh", "-c", plain .. worker_words() }, -- a sanitizer would take the signal
        }
        local job = pool:options({ name = "grain" }):submit(case[1])
        local next_job = pool:submit(add, 1, 2)
        local e = expect.error("WorkerCrashed", job.result, job)
        assert.equal(case[2], e.code)
        assert.equal(case[3], e.signal)
        assert.matches("a worker of mill .* while it ran job 'grain'", e.message)
        assert.equal("", e.stderr)
        assert.equal(3, next_job:result())
      end)
    end

    it("a worker that has no memory left for C", function()
      local pool <close> = concur.ProcessPoolExecutor {
        workers = 1,
        command = { "sh", "-c", "ulimit -v 400000; exec " .. worker_words() },
      }
      if support.build:find "san" then
        return -- a sanitizer's shadow alone is larger
      end
      local e = expect.error("RemoteError", pool.run, pool, string.rep, "x", 1 << 30)
      assert.matches("not enough memory", e.message)
      assert.equal(3, pool:run(add, 1, 2))
    end)

    it("a worker that is killed while it sends 8 MB", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        pool:run(add, 1, 2)
        local victim = workers()[1]
        local outcomes = {}
        for i = 1, 6 do
          local job = pool:submit(function() return ("x"):rep(8 << 20) end)
          local killer = concur.spawn(function()
            concur.sleep(0.001 * i * i)
            os.execute("kill -9 " .. victim .. " 2>/dev/null")
          end)
          local ok, result = pcall(job.result, job)
          killer:result()
          outcomes[#outcomes + 1] = ok
          if ok then
            assert.equal(8 << 20, #result)
          else
            assert.is_true(errors.is(result, "WorkerCrashed"), tostring(result))
          end
          assert.equal(3, pool:options({ retry = 1 }):run(add, 1, 2))
          victim = workers()[1]
        end
        assert.equal(6, #outcomes)
      end)
    end)

    it("a worker that is killed while it is sent 8 MB", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        pool:run(add, 1, 2)
        os.execute("kill -STOP " .. workers()[1])
        local jobs, text = {}, ("x"):rep(8 << 20)
        for i = 1, 3 do
          jobs[i] = pool:submit(function(s) return #s end, text)
        end
        concur.sleep(0.05)
        os.execute("kill -KILL " .. workers()[1])
        for i = 1, 3 do -- none had begun: all go to the next worker
          assert.equal(8 << 20, jobs[i]:result())
        end
      end)
    end)

    it("a crash with its finished results kept, and what had not begun done elsewhere", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        local n = 0
        for _ in pool:map(math.abs, function() -- jobs are short: several are with the worker at a time
          n = n + 1
          if n <= 200 then return n end
        end) do end
        local jobs = {}
        for i = 1, 40 do
          jobs[i] = pool:submit(function(k)
            if k == 20 then os.exit(9) end
            return k
          end, i)
        end
        for i = 1, 40 do
          if i == 20 then
            assert.equal(9, expect.error("WorkerCrashed", jobs[i].result, jobs[i]).code)
          else
            assert.equal(i, jobs[i]:result())
          end
        end
      end)
    end)
  end)

  it("repeats a job that may be repeated", function()
    local pool <close> = concur.ProcessPoolExecutor(1)
    local path = support.tmpdir() .. "/tries"
    local function twice(p)
      local file <close> = assert(io.open(p, "a"))
      file:write "x"
      file:flush()
      if file:seek "end" < 3 then
        os.exit(1)
      end
      return "third"
    end
    expect.error("WorkerCrashed", pool.run, pool:options { retry = 1 }, twice, path)
    assert.equal("third", pool:options({ retry = 1 }):run(twice, path))
  end)

  it("keeps the end of stderr with tee, and passes it on", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, stderr = "tee" }
      pool:run(function() io.stderr:write("before\n") end)
      local ok, e = pcall(pool.run, pool, function()
        io.stderr:write(("long line "):rep(1000), "\nlast words\n")
        os.exit(4)
      end)
      print(e.kind, e.code, #e.stderr, e.stderr:sub(-11, -2))
    ]]
    assert.equal("WorkerCrashed\t4\t4096\tlast words\n", result.stdout, support.describe(result))
    assert.equal("before\n" .. ("long line "):rep(1000) .. "\nlast words\n", result.stderr)
    result = support.run_lua [[
      local concur = require "concur"
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, stderr = "discard" }
      pool:run(function() io.stderr:write("never seen") end)
    ]]
    assert.equal("", result.stderr)
  end)

  it("gives up after repeated crashes, and says why", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_crashes = 4 }
      local jobs, kinds = {}, {}
      for i = 1, 8 do
        jobs[i] = pool:submit(function() os.exit(6) end)
      end
      local broken
      for i = 1, 8 do
        local ok, e = pcall(jobs[i].result, jobs[i])
        assert.is_false(ok)
        kinds[e.kind] = (kinds[e.kind] or 0) + 1
        broken = e
      end
      assert.same({ WorkerCrashed = 4, BrokenExecutor = 4 }, kinds)
      assert.is_true(errors.is(broken, "WorkerCrashed"))
      assert.equal(6, broken.cause.code)
      assert.matches("exit code 6", broken.message)
      expect.error("BrokenExecutor", pool.submit, pool, add, 1, 2)
    end)
  end)

  it("does not give up while jobs are finished between the crashes", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_crashes = 2 }
      for _ = 1, 4 do
        expect.error("WorkerCrashed", pool.run, pool, function() os.exit(6) end)
        assert.equal(3, pool:run(add, 1, 2))
      end
      assert.equal(4, pool:stats().crashes)
      assert.equal(5, pool:stats().processes_started)
    end)
  end)

  describe("is told what is wrong with a worker that", function()
    local function check(name, text, expected, more)
      local marker = support.tmpdir() .. "/lied"
      local pool <close> = concur.ProcessPoolExecutor {
        workers = 1,
        command = { "sh", "-c", ("if [ -e %s ]; then exec %s; fi; touch %s; exec %s %s %s"):format(
          marker, worker_words(), marker, support.lua,
          support.quote(support.root .. "/spec/support/liar.lua"), name) },
      }
      local job = pool:submit(add, 1, 2, more)
      if expected then
        assert.equal(expected, job:result(20 * SCALE))
      else
        local e = expect.error("WorkerCrashed", job.result, job, 20 * SCALE)
        assert.matches(text, e.message)
      end
      assert.equal(7, pool:run(add, 3, 4))
    end

    for name, text in pairs {
      magic = "bad magic number",
      version = "protocol version 9",
      kind = "unknown kind 99",
      pools_own = "a frame that only its pool sends",
      huge = "a frame of 1125899906842624 bytes, beyond the limit",
      nobody = "a result that nobody waits for",
      slot = "a result that nobody waits for",
      outcome = "a result that nobody waits for",
      inline = "a result that nobody waits for",
      inline_string = "a result that nobody waits for",
      empty = "a result that nobody waits for",
      truncated = "ended with exit code 0",
      garbage = "no bell",
      positions = "damaged the memory",
      everything = "damaged the memory",
    } do
      it("sends " .. name, function()
        check(name, text)
      end)
    end

    it("sends positions while it is sent more than the link holds", function()
      check("positions_sent", "damaged the memory", nil, ("x"):rep(3 << 20))
    end)

    it("dies before it could run anything", function()
      check("mute", nil, 3)
    end)

    it("speaks another version", function()
      check("other_version", nil, 3)
      local pool <close> = concur.ProcessPoolExecutor {
        workers = 1,
        command = { support.lua, support.root .. "/spec/support/liar.lua", "other_version" },
      }
      local e = expect.error("BrokenExecutor", pool.run, pool, add, 1, 2)
      assert.matches("speaks version 2 of the protocol, its pool speaks version 1", e.message)
    end)

    it("is no worker at all", function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 2, command = { "true" } }
      local e = expect.error("BrokenExecutor", pool.run, pool, add, 1, 2)
      assert.matches("exit code 0", e.message)
    end)

    it("never attaches: sleeps, or reads what nobody writes", function()
      for _, command in ipairs { { "sleep", "3600" }, { "tail", "-f", "/dev/null" } } do
        local pool <close> = concur.ProcessPoolExecutor {
          workers = 2,
          start_timeout = 0.02,
          command = command,
        }
        local future = pool:submit(add, 1, 2)
        local e = expect.error("BrokenExecutor", future.result, future, 10 * support.time_scale)
        assert.matches("did not attach to its pool within 0.02 s: '" .. command[1] .. "' must call "
          .. 'require%("concur.process_worker"%).run%(%)', e.message)
        assert.equal("WorkerCrashed", e.cause.kind)
      end
    end)

    it("closes its end and stays", function()
      local pool <close> = concur.ProcessPoolExecutor {
        workers = 1,
        max_crashes = 1,
        command = { "sh", "-c", "exec 3>&- 4>&-; exec sleep 30" },
      }
      local e = expect.error("BrokenExecutor", pool.run, pool, add, 1, 2)
      assert.matches("SIGKILL", e.message)
    end)
  end)

  it("whose workers are killed at random ends every job exactly once", function()
    local seed = support.seed()
    local log = support.tmpdir() .. "/log"
    support.write_file(log, "")
    local function job(path, i, ms, size)
      local file <close> = assert(io.open(path, "a"))
      file:setvbuf "full"
      file:write(i, "\n")
      file:flush()
      if ms > 0 then
        local finish = os.clock() + ms / 1000
        while os.clock() < finish do end
      end
      return i, ("r"):rep(size)
    end
    local submitted, crashed, finished = 0, 0, 0
    concur.run(function()
      math.randomseed(seed)
      local pool <close> = concur.ProcessPoolExecutor { workers = 3, max_crashes = 1000 }
      local killed = 0
      local slots = concur.Semaphore(64)
      concur.task_group(function(group)
        local killer = group:spawn(function()
          while killed < KILLS do
            concur.sleep(math.random() * 0.02)
            local alive = workers()
            local victims = {}
            for _ = 1, math.random(1, 2) do
              victims[#victims + 1] = alive[math.random(math.max(#alive, 1))]
            end
            if #victims > 0 then
              killed = killed + #victims
              local command = "kill -9 " .. table.concat(victims, " ") .. " 2>/dev/null"
              concur.to_thread(os.execute, command)
            end
          end
        end)
        while not killer:done() do
          slots:acquire()
          submitted = submitted + 1
          local i = submitted
          local size = math.random(20) == 1 and 1100000 or math.random(0, 60)
          local future = pool:submit(job, log, i, math.random(8) == 1 and math.random(5) or 0, size)
          group:spawn(function()
            local ok, e, text = pcall(future.result, future)
            slots:release()
            if ok then
              finished = finished + 1
              assert(e == i and #text == size)
            else
              assert(errors.is(e, "WorkerCrashed"), e)
              assert(e.signal == "SIGKILL", e)
              crashed = crashed + 1
            end
          end)
        end
      end)
      assert.equal(3, pool:run(add, 1, 2))
    end)
    assert.equal(submitted, crashed + finished)
    assert.is_true(crashed > 0 and finished > 100)
    local runs = {}
    for line in io.lines(log) do
      runs[line] = (runs[line] or 0) + 1
    end
    local begun = 0
    for i, count in pairs(runs) do
      assert.equal(1, count, "job " .. i .. " began more than once")
      begun = begun + 1
    end
    assert.is_true(begun >= finished and begun <= submitted)
  end)

  it("has no worker left a second after its own process was killed", function()
    local path = support.tmpdir() .. "/pids"
    local result = support.run_lua(([[
      local concur = require "concur"
      local pool = concur.ProcessPoolExecutor(3)
      local function pid() return io.open("/proc/self/stat"):read("a"):match "^%%d+" end
      local jobs = {}
      local file = io.open(%q, "w")
      for i, p in pool:map(function(_)
        require("concur").sleep(0.05)
        return io.open("/proc/self/stat"):read("a"):match "^%%d+"
      end, { 1, 2, 3 }) do file:write(p, "\n") end
      file:close()
      pool:submit(function() while true do end end)          -- busy
      pool:submit(function() require("concur").sleep(100) end) -- waiting
      concur.sleep(0.1)                                        -- the third is idle
      os.execute("kill -9 " .. pid())
    ]]):format(path))
    assert.equal(9, result.signal or (result.code - 128), support.describe(result))
    local left
    local deadline = concur.now() + 1 * SCALE
    repeat
      concur.sleep(0.02)
      left = {}
      for pid in io.lines(path) do
        local stat = io.open("/proc/" .. pid .. "/stat")
        local state = stat and stat:read("a"):match "^.*%) (%a)"
        if stat then
          stat:close()
        end
        left[#left + 1] = state and state ~= "Z" and pid or nil
      end
    until #left == 0 or concur.now() > deadline
    assert.same({}, left)
  end)
end)
